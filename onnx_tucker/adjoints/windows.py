"""Through convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onnx_tucker.adjoints.call import Call, Value, single


def convolved(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a convolution, with respect to what it convolves."""
    if index:
        raise ValueError("a weight that varies")
    return _spread(call, single(changes), call.given(1), call.given(0).shape, call.attributes.get("group", 1))


def transposed(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a transposed convolution, with respect to what it convolves."""
    given, change = call.attributes, single(changes)
    if index or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in given:
        raise ValueError("a weight that varies, or pads that follow from a shape")
    kept = {name: given[name] for name in ("kernel_shape", "strides", "dilations", "pads", "group") if name in given}
    [found] = call.run([change, call.given(1)], "Conv", **kept)
    shape = call.given(0).shape  # what is padded at the end may be seen too
    return found[tuple(slice(n) for n in shape)]


def largest(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through max pooling."""
    x = call.given(index)
    _, places = call.run(call.inputs, "MaxPool", 2, **{**call.attributes, "storage_order": 0})
    return np.bincount(places.ravel(), single(changes).ravel(), x.size).reshape(x.shape).astype(np.float32)


def averaged(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through average pooling."""
    x, change = call.given(index), single(changes)
    window = _window(call, x.shape[2:], change.shape[2:])
    ones = np.ones((1, 1, *window["kernel_shape"]), np.float32)
    share = change / np.float32(ones.size)
    if not call.attributes.get("count_include_pad"):
        [seen] = call.run([np.ones((1, 1, *x.shape[2:]), np.float32), ones], "Conv", **window)
        share = change / seen
    by_channel = share.reshape(-1, 1, *share.shape[2:])
    return _spread(call, by_channel, ones, (len(by_channel), 1, *x.shape[2:]), 1).reshape(x.shape)


def _window(call: Call, size: Sequence[int], result: Sequence[int]) -> dict[str, Any]:
    """Strides, dilations and pads of a window over values of these lengths, as attributes.

    Raises:
        ValueError: lengths of the result are rounded up.
    """
    given, n = call.attributes, len(size)
    kernel = given.get("kernel_shape") or list(call.given(1).shape[2:])
    strides, dilations = (list(given.get(name) or [1] * n) for name in ("strides", "dilations"))
    pads = list(given.get("pads") or [0] * 2 * n)
    auto = given.get("auto_pad", "NOTSET")
    reach = [(m - 1) * s + d * (k - 1) + 1 for m, s, d, k in zip(result, strides, dilations, kernel, strict=True)]
    if auto.startswith("SAME"):
        total = [max(r - x, 0) for r, x in zip(reach, size, strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    if any(r > x + a + b for r, x, a, b in zip(reach, size, pads[:n], pads[n:], strict=True)):
        raise ValueError("lengths that are rounded up")
    return {"kernel_shape": list(kernel), "strides": strides, "dilations": dilations, "pads": pads}


def _spread(call: Call, change: Value, weight: Value, shape: Sequence[int], group: int) -> Value:
    """What the transpose of a convolution gives, of the shape that the convolution took.

    With strides of 1 that is a convolution too, which takes a tenth of the time of a transposed one.
    """
    window = _window(call, shape[2:], change.shape[2:])
    sizes = zip(change.shape[2:], window["kernel_shape"], window["strides"], window["dilations"], strict=True)
    reach = [((result - 1) * s + d * (k - 1) + 1, d * (k - 1)) for result, k, s, d in sizes]
    before = window["pads"][: len(reach)]
    after = [whole - size - pad for (whole, _), size, pad in zip(reach, shape[2:], before, strict=True)]
    unseen = [max(0, -pad) for pad in after]  # values at the end that no window sees
    after = [max(0, pad) for pad in after]
    around = [beyond - pad for (_, beyond), pad in zip(reach * 2, [*before, *after], strict=True)]
    if max(window["strides"]) > 1 or min(around) < 0:
        [found] = call.run([change, weight], "ConvTranspose", group=group, **{**window, "pads": [*before, *after]})
    else:
        turned = np.flip(weight, tuple(range(2, weight.ndim))).reshape(group, -1, *weight.shape[1:]).swapaxes(1, 2)
        turned = np.ascontiguousarray(turned).reshape(-1, *turned.shape[2:])
        [found] = call.run([change, turned], "Conv", group=group, **{**window, "pads": around})
    return np.pad(found, [(0, 0), (0, 0), *((0, m) for m in unseen)]) if any(unseen) else found
