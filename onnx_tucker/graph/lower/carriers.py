"""Nodes that can work on frames as well, so that two convolutions need no transposes between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tucker.forms import LONGEST
from onnx_tucker.forms.temporal import Temporal
from onnx_tucker.graph.constant import Constant
from onnx_tucker.graph.lower.frames import Frames
from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.graph.nodes import SOFTMAX_OF_ONE_AXIS, SOFTMAXES, attributes
from onnx_tucker.graph.ops.conv import window_of
from onnx_tucker.types import Array, Window

POINTWISE = frozenset(
    "Abs Celu Ceil Clip Cos Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Reciprocal "
    "Relu Round Selu Sigmoid Sign Sin Softplus Softsign Sqrt Tanh ThresholdedRelu".split()
)
"""Operators of one value, that treat each element alike; what else they take is one number."""
TOGETHER = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max", "Min", "Mean", "Sum"))
"""Operators of values of the same shape, element by element, or of such and constants of channels."""

AXES = 5
"""Of a value that may be kept as frames: batch, channels, frames, height, width."""


@dataclass(frozen=True)
class Carrier:
    """A node that works on frames.

    Attributes:
        data: which inputs are values; the others are parameters.
        emit: writes it, from the writer, the node, the frames of `data`, and the name of what comes out.
        out: the frames that come out, without a name; None where the node writes the value itself.
    """

    data: Sequence[int]
    emit: Callable[[Writer, onnx.NodeProto, Sequence[Frames], str], None]
    out: Frames | None


def carrier(
    node: onnx.NodeProto, frames: Sequence[Frames | None], constants: Sequence[Constant | None], opset: int
) -> Carrier | None:
    """How a node works on frames, or None where it does not.

    Args:
        node: a node of the standard operators.
        frames: for each of its inputs, the frames that it could be, or None.
        constants: for each of its inputs, the constant that it is, or None.
        opset: version of the standard operators.
    """
    if len(node.output) != 1:
        return None
    if node.op_type in TOGETHER:
        return _together(node, frames, constants)
    x, kind = frames[0] if frames else None, node.op_type
    if x is None:
        return None
    given, blank = attributes(node), replace(x, name="")
    if kind in POINTWISE or (kind == "BatchNormalization" and given.get("spatial", 1)):
        return Carrier([0], _same, blank)
    if kind in SOFTMAXES and given.get("axis") == 1 and opset >= SOFTMAX_OF_ONE_AXIS:
        return Carrier([0], _same, blank)
    if kind == "Concat" and given.get("axis") in (1, -4):
        joined = [f for f in frames if f and (f.batch, f.size) == (x.batch, x.size)]
        if len(joined) == len(frames):
            channels = sum(f.channels for f in joined)
            return Carrier(range(len(frames)), _concat, replace(blank, channels=channels))
    if kind in ("MaxPool", "AveragePool"):
        return _pool(node, x)
    if kind == "GlobalAveragePool":
        return Carrier([0], _global_average, None)
    return None


def _together(
    node: onnx.NodeProto, frames: Sequence[Frames | None], constants: Sequence[Constant | None]
) -> Carrier | None:
    data = [i for i, x in enumerate(frames) if x]
    alike = {replace(x, name="") for x in frames if x}
    if len(alike) != 1:
        return None
    [out] = alike
    others = {i: _of_channels(constants[i], out.channels) for i in range(len(frames)) if i not in data}
    known = {i: values for i, values in others.items() if values is not None}
    if len(known) < len(others):
        return None
    if node.op_type == "PRelu" and 1 in known and known[1].size == 1:
        return Carrier(data, partial(_leaky, float(known[1].item())), out)
    return Carrier(data, partial(_combined, known), out)


def _of_channels(constant: Constant | None, channels: int) -> NDArray[Any] | None:
    """A constant that is one number, or one for each channel, as images take it; None for others."""
    if constant is None or len(constant.shape) > AXES:
        return None
    if math.prod(constant.shape) == 1:
        return constant.read().reshape(())
    by_channel = constant.shape[-AXES + 1 :] == (channels, 1, 1, 1) and math.prod(constant.shape) == channels
    return constant.read().reshape(channels, 1, 1) if by_channel else None


def _combined(
    constants: Mapping[int, NDArray[Any]],
    writer: Writer,
    node: onnx.NodeProto,
    frames: Sequence[Frames],
    output: str,
) -> None:
    data = (x.name for x in frames)
    inputs = [writer.constant(constants[i]) if i in constants else next(data) for i in range(len(node.input))]
    _copy(writer, node, inputs, output)


def _leaky(slope: float, writer: Writer, node: onnx.NodeProto, frames: Sequence[Frames], output: str) -> None:
    """A PRelu of one slope, for which onnxruntime takes several times as long."""
    writer.add("LeakyRelu", frames[0].name, output=output, alpha=slope)


def _same(writer: Writer, node: onnx.NodeProto, frames: Sequence[Frames], output: str) -> None:
    data = [f.name for f in frames]
    _copy(writer, node, [*data, *node.input[len(data) :]], output)


def _concat(writer: Writer, node: onnx.NodeProto, frames: Sequence[Frames], output: str) -> None:
    writer.add("Concat", *[f.name for f in frames], output=output, axis=1)


def _copy(writer: Writer, node: onnx.NodeProto, inputs: Sequence[str], output: str) -> None:
    writer.add(node.op_type, *inputs, output=output)
    writer.nodes[-1].attribute.extend(node.attribute)


def _global_average(writer: Writer, node: onnx.NodeProto, frames: Sequence[Frames], output: str) -> None:
    (x,) = frames
    pooled = writer.add("GlobalAveragePool", x.name)
    parted = writer.reshape(pooled, -1, x.size[0], x.channels)
    mean = writer.product(np.full((1, x.size[0]), 1 / x.size[0]), parted)
    writer.reshape(mean, -1, x.channels, 1, 1, 1, output=output)


def _pool(node: onnx.NodeProto, x: Frames) -> Carrier | None:
    """A pool as one of each frame alone, then the largest of the frames, or their mean."""
    given = attributes(node)
    window = window_of(given, tuple(given["kernel_shape"]))
    if len(window.kernel) != 3 or window.auto_pad != "NOTSET" or given.get("storage_order"):
        return None
    size = window.output_size(x.size)
    if (
        min(size) < 1
        or max(size[0], window.kernel[0]) > LONGEST
        or (given.get("ceil_mode") and not _whole(window, x.size, size))
    ):
        return None
    if not Temporal.of(window, x.size).meetings().any(axis=(1, 2)).all():
        return None  # some window lies in the padding
    return Carrier([0], partial(_pooled, window), replace(x, name="", size=size))


def _whole(window: Window, size: tuple[int, ...], out_size: tuple[int, ...]) -> bool:
    """Whether the last windows end where the padded input does, so that rounding up changes nothing."""
    pads = window.pads[:3], window.pads[3:]
    ends = zip(size, out_size, *pads, window.kernel, window.strides, window.dilations, strict=True)
    return all((out - 1) * s + d * (k - 1) + 1 == length + b + e for length, out, b, e, k, s, d in ends)


def _pooled(window: Window, writer: Writer, node: onnx.NodeProto, frames: Sequence[Frames], output: str) -> None:
    x, given = frames[0], attributes(node)
    temporal = Temporal.of(window, x.size)
    plane = window.output_size(x.size)[1:]
    shared: dict[str, Any] = {"dilations": window.dilations[1:]} if max(window.dilations) > 1 else {}
    padded = bool(given.get("count_include_pad"))
    if padded:
        shared["count_include_pad"] = 1
    # One channel an image keeps the pool out of the blocked layout, which it would be brought into and out of.
    y = writer.add(
        node.op_type,
        writer.reshape(x.name, -1, 1, *x.size[1:]),
        kernel_shape=window.kernel[1:],
        strides=window.strides[1:],
        pads=(*window.pads[1:3], *window.pads[4:]),
        **shared,
    )
    volume = x.channels * math.prod(plane)
    y = writer.reshape(y, -1, x.size[0], volume)
    if not temporal.trivial:
        meetings = temporal.meetings()
        if node.op_type == "MaxPool":
            y = _largest(writer, y, temporal, meetings, volume)
        else:
            met = meetings.sum(2)
            y = writer.product(met / (window.kernel[0] if padded else met.sum(1, keepdims=True)), y)
    writer.reshape(y, -1, x.channels, *plane, output=output)


def _largest(writer: Writer, y: str, temporal: Temporal, meetings: Array, volume: int) -> str:
    """The largest of the frames that each output meets, of frames (batch, frames, volume)."""
    taps = len(temporal.taps)
    if temporal.outputs * taps == temporal.frames and np.array_equal(temporal.taps_in(), np.eye(temporal.frames)):
        return writer.largest(writer.reshape(y, -1, temporal.outputs, taps, volume), 2)
    parts = []
    for tap in range(taps):
        met = meetings[:, :, tap]
        inside = np.where(met.any(1), met.argmax(1), meetings.any(2).argmax(1))  # padding is never the largest
        parts.append(writer.add("Gather", y, writer.constant(inside.astype(np.int64)), axis=1))
    return writer.add("Max", *parts)
