"""Through convolutions and poolings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnx_tucker.adjoints.call import Call, Value, single
from onnx_tucker.graph.ops.conv import geometry, window_of
from onnx_tucker.types import Stage, Window


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
    size, n, window = x.shape[2:], x.ndim - 2, _window(call, x.shape[2:])
    before, after = window.pads[:n], window.pads[n:]
    reach = zip(_reach(window, change.shape[2:]), size, before, strict=True)
    beyond = [whole - m - a for whole, m, a in reach]  # more than the pads where lengths are rounded up
    ends = [max(pair) for pair in zip(after, beyond, strict=True)]
    counted, around = size, (*before, *ends)
    if call.attributes.get("count_include_pad"):
        counted = tuple(m + a + b for m, a, b in zip(size, before, after, strict=True))
        around = (*[0] * n, *(end - b for end, b in zip(ends, after, strict=True)))
    ones = np.ones((1, 1, *window.kernel), np.float32)
    [seen] = call.run([np.ones((1, 1, *counted), np.float32), ones], "Conv", **_geometry(window, around))
    share = change / seen
    by_channel = share.reshape(-1, 1, *share.shape[2:])
    return _spread(call, by_channel, ones, (len(by_channel), 1, *x.shape[2:]), 1).reshape(x.shape)


def _window(call: Call, size: Sequence[int]) -> Window:
    """The window of a node over values of these lengths, with its pads spelt out."""
    kernel = call.attributes.get("kernel_shape") or call.given(1).shape[2:]
    return window_of(call.attributes, tuple(kernel)).explicit(tuple(size))


def _geometry(window: Window, pads: Sequence[int], group: int = 1) -> dict[str, Any]:
    """A window with other pads as attributes."""
    return geometry(Stage(1, 1, replace(window, pads=tuple(pads)), group))


def _reach(window: Window, result: Sequence[int]) -> list[int]:
    """The lengths of what so many windows side by side see."""
    sizes = zip(result, window.strides, window.dilations, window.kernel, strict=True)
    return [(m - 1) * s + d * (k - 1) + 1 for m, s, d, k in sizes]


def _spread(call: Call, change: Value, weight: Value, shape: Sequence[int], group: int) -> Value:
    """What the transpose of a convolution gives, of the shape that the convolution took.

    With strides of 1 that is a convolution too, which takes a tenth of the time of a transposed one.
    """
    window = _window(call, shape[2:])
    whole, before = _reach(window, change.shape[2:]), window.pads[: len(shape) - 2]
    beyond = [d * (k - 1) for d, k in zip(window.dilations, window.kernel, strict=True)]
    after = [reach - size - pad for reach, size, pad in zip(whole, shape[2:], before, strict=True)]
    unseen = [max(0, -pad) for pad in after]  # values at the end that no window sees
    after = [max(0, pad) for pad in after]
    around = [span - pad for span, pad in zip(beyond * 2, [*before, *after], strict=True)]
    if max(window.strides) > 1 or min(around) < 0:
        [found] = call.run([change, weight], "ConvTranspose", **_geometry(window, [*before, *after], group))
    else:
        turned = np.flip(weight, tuple(range(2, weight.ndim))).reshape(group, -1, *weight.shape[1:]).swapaxes(1, 2)
        turned = np.ascontiguousarray(turned).reshape(-1, *turned.shape[2:])
        [found] = call.run([change, turned], "Conv", **_geometry(window, around, group))
    return np.pad(found, [(0, 0), (0, 0), *((0, m) for m in unseen)]) if any(unseen) else found
