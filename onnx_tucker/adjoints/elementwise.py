"""Through what takes each value by itself, or with those at the same place of others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tucker.adjoints.call import Call, Value, reduced, single

STEP, SMALL = 1e-3, 1e-2
"""How far up and down values go, relative to their size, that of most of them or this, whichever is the largest: one
that is to hide others may be larger than all by far, and small steps are lost in a function of another scale.
"""

SOME = 10_000
"""Values that tell how large most of them are."""

LEAKY = 0.01
"""The slope of a LeakyRelu below 0, unless it says otherwise."""


def by_itself(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through what takes every value by itself, alone or with those at the same place of others."""
    x, change = call.given(index), single(changes)
    if x.dtype != np.float32 or not x.size:
        raise ValueError("there are no numbers in single precision")
    sizes, most = np.abs(x), np.finfo(x.dtype).max
    some = sizes.ravel()[:: -(-x.size // SOME)]
    some = some[np.isfinite(some)]
    typical = np.median(some) if some.size else 0.0
    step = np.float32(STEP) * np.maximum(sizes, np.float32(max(typical, SMALL)))
    higher, lower = np.minimum(x + step, most), np.maximum(x - step, -most)
    up, down = (call.run([*call.inputs[:index], way, *call.inputs[index + 1 :]])[0] for way in (higher, lower))
    slope = np.where(np.isinf(x), np.float32(0), (up - down) / (higher - lower))
    return reduced(change * slope, x.shape)


def normalised(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a normalisation by constants."""
    if index or call.attributes.get("training_mode"):
        raise ValueError("a normalisation that varies")
    return by_itself(call, changes, index)


def added(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through sums and differences, in which small steps of a small value would be lost."""
    change = single(changes)
    return reduced(-change if call.op == "Sub" and index else change, call.given(index).shape)


def multiplied(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a product, value by value."""
    return reduced(single(changes) * call.given(1 - index), call.given(index).shape)


def divided(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a quotient."""
    share = single(changes) / call.given(1)
    return reduced(-share * call.made if index else share, call.given(index).shape)


def raised(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a power, whose base a step might lead below 0."""
    base, exponent = call.given(0), call.given(1)
    slope = call.made * np.log(base) if index else exponent * np.power(base, exponent - 1)
    return np.asarray(reduced(single(changes) * slope, call.given(index).shape), np.float32)


def exponential(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through exponentials and what would leave its domain by a step."""
    change, y = single(changes), call.made
    if call.op == "Log":
        return np.asarray(change / call.given(index))
    if call.op == "Sqrt":
        return np.asarray(change / (2 * y))
    return np.asarray(change * (y if call.op == "Exp" else -y * y))


def rectified(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a rectifier: a step across 0 would see both of its sides."""
    change, x = single(changes), call.given(index)
    if call.op == "Relu":
        return change * (x > 0)
    alpha = np.float32(call.attributes.get("alpha", LEAKY if call.op == "LeakyRelu" else 1.0))
    below = alpha if call.op == "LeakyRelu" else call.made + alpha  # Elu, whose slope there is alpha * exp(x)
    return np.asarray(change * np.where(x > 0, np.float32(1), below))


def chosen(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a choice between two values."""
    taken = call.given(0) if index == 1 else ~call.given(0)
    return reduced(single(changes) * taken, call.given(index).shape)
