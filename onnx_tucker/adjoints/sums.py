"""Through sums over axes, and what is scaled by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from onnx_tucker.adjoints.call import Call, Value, single
from onnx_tucker.graph.nodes import SOFTMAX_OF_ONE_AXIS, softmax_axis


def summed(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through sums, means, norms, largest and least values."""
    x, change = call.given(index), single(changes)
    axes = _axes(call, x)
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    spread = np.broadcast_to(change.reshape(kept), x.shape)
    if call.op.endswith("Sum"):
        return spread
    if call.op.endswith(("Mean", "AveragePool")):
        return np.asarray(spread / np.float32(math.prod(x.shape[a] for a in axes)))
    if call.op.endswith("SumSquare"):
        return np.asarray(spread * 2 * x)
    if call.op.endswith("L1"):
        return np.asarray(spread * np.sign(x))
    y = call.made.reshape(kept)
    if call.op.endswith("L2"):
        return np.asarray(spread * _over(x, y))
    if call.op.endswith("LogSumExp"):
        return np.asarray(spread * np.exp(x - y))
    extreme = x == y
    return np.asarray(spread * extreme / extreme.sum(axis=axes, keepdims=True, dtype=np.float32))


def _over(values: Value, norms: Value) -> Value:
    """Values over their norms; where those are 0, there is no derivative, and so none arrives."""
    return np.divide(values, norms, out=np.zeros_like(values), where=norms != 0)


def _axes(call: Call, x: Value) -> tuple[int, ...]:
    """Those that a reduction goes over."""
    given = call.attributes.get("axes")
    if given is None and len(call.inputs) > 1 and call.inputs[1] is not None:
        given = call.inputs[1].tolist()
    if call.op.startswith("Global"):
        given = range(2, x.ndim)
    return tuple(a % x.ndim for a in given) if given else tuple(range(x.ndim))


def softmax(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a softmax or its logarithm; before opset 13 over all axes from one on."""
    y, change = call.made, single(changes)
    axis = softmax_axis(call.attributes, call.opset) % y.ndim
    axes: Any = axis if call.opset >= SOFTMAX_OF_ONE_AXIS else tuple(range(axis, y.ndim))
    if call.op == "LogSoftmax":
        return np.asarray(change - np.exp(y) * change.sum(axis=axes, keepdims=True))
    return np.asarray(y * (change - (y * change).sum(axis=axes, keepdims=True)))


def scaled(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a division by the norm along an axis."""
    x, y, change = call.given(index), call.made, single(changes)
    order, axis = int(call.attributes.get("p", 2)), int(call.attributes.get("axis", -1))
    norm = np.linalg.norm(x, order, axis, keepdims=True)
    slope = y if order == 2 else np.sign(x)
    return _over(change - slope * (y * change).sum(axis=axis, keepdims=True), norm)


def responded(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a local response normalisation."""
    x, y, change = call.given(index), call.made, single(changes)
    size, beta = int(call.attributes["size"]), float(call.attributes.get("beta", 0.75))
    share = float(call.attributes.get("alpha", 1e-4)) / size
    base = float(call.attributes.get("bias", 1.0)) + share * _window(np.square(x), size)
    around = _window(change * y / base, size)
    return np.asarray(change * base**-beta - 2 * beta * share * x * around, np.float32)


def _window(values: Value, size: int) -> Value:
    """Sums over so many channels around each; onnxruntime runs odd numbers only."""
    widths = [(size // 2, size // 2) if axis == 1 else (0, 0) for axis in range(values.ndim)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, widths), size, axis=1)
    return np.asarray(windows.sum(axis=-1))


def standardised(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a normalisation by mean and variance of the values themselves."""
    x, scale = call.given(0), call.given(1)
    if index:
        raise ValueError("a scale that varies")
    if call.op == "LayerNormalization":
        axes = tuple(range(int(call.attributes.get("axis", -1)) % x.ndim, x.ndim))
    else:
        axes = tuple(range(2, x.ndim))
        by_channel = np.repeat(scale, x.shape[1] // len(scale))  # before opset 21 there is one for each group
        scale = by_channel.reshape(-1, *[1] * (x.ndim - 2))
    scaled = single(changes) * scale
    if call.op == "GroupNormalization":
        axes, shape = (2,), (len(x), call.attributes["num_groups"], -1)
        x, scaled = x.reshape(shape), scaled.reshape(shape)
    centred = x - x.mean(axis=axes, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + call.attributes.get("epsilon", 1e-5))
    unit, mean = centred / spread, partial(np.mean, axis=axes, keepdims=True)
    found = np.asarray((scaled - mean(scaled) - unit * mean(scaled * unit)) / spread, np.float32)
    return found.reshape(call.given(0).shape)
