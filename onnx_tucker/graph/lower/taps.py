"""Depthwise 3D convolutions as a 2D one for each tap in time, whose results are shifted along the frames and added.

All frames of all channels are the channels of these, so that nothing has to be transposed.
"""

from __future__ import annotations

import numpy as np

from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.temporal import Temporal
from onnx_tucker.types import Array, Stage

ALIGNED = 4
"""Channels of which onnxruntime's fast kernels for depthwise convolutions take multiples only."""


def stored(weight: Array) -> Array:
    """The weight of a depthwise stage with a row for each tap in time."""
    return np.asarray(weight.swapaxes(0, 2).reshape(weight.shape[2], -1))


def convolve(writer: Writer, x: str, stage: Stage, weight: str, bias: str, size: tuple[int, ...], output: str) -> None:
    """The stage on values (batch, channels, frames, height, width).

    Args:
        writer: takes the nodes.
        x: the value that goes in.
        stage: a depthwise one, of stride 1 in time.
        weight: name of the weight, as `stored` gives it.
        bias: name of the bias, or empty.
        size: frames, height, width of the input.
        output: the value that comes out.
    """
    window, channels = stage.window.explicit(size), stage.groups
    temporal, plane = Temporal.of(window, size), window.output_size(size)[1:]
    count = size[0]
    while channels * count % ALIGNED:
        count += 1  # frames of zeros, which are what padding is
    if count > size[0]:
        x = writer.pad(x, 2, 0, count - size[0])
    x = writer.reshape(x, -1, channels * count, *size[1:])
    sure = temporal.sure_tap() if bias else None
    parts = []
    for i, tap in enumerate(temporal.taps):
        kernel = writer.product(np.eye(window.kernel[0])[tap : tap + 1], weight)
        kernel = _of_frames(writer, writer.reshape(kernel, channels, 1, -1), count, 1, *window.kernel[1:])
        own = [_of_frames(writer, writer.reshape(bias, channels, 1, 1), count)] if i == sure else []
        y = writer.add(
            "Conv",
            x,
            kernel,
            *own,
            kernel_shape=window.kernel[1:],
            strides=window.strides[1:],
            dilations=window.dilations[1:],
            pads=(*window.pads[1:3], *window.pads[4:]),
            group=channels * count,
        )
        late = tap * window.dilations[0] - window.pads[0]
        y = writer.reshape(y, -1, channels, count, *plane)
        parts.append(writer.pad(y, 2, -late, temporal.outputs + late - count))
    if bias and sure is None:
        parts.append(writer.reshape(bias, 1, channels, 1, 1, 1))
    writer.add("Sum", *parts, output=output)


def _of_frames(writer: Writer, value: str, count: int, *shape: int) -> str:
    """What channels have, (channels, 1, values), for each of their frames: (channels * count, *shape)."""
    ones = writer.constant(np.ones((1, count, 1), np.float32))
    return writer.reshape(writer.add("Mul", value, ones), -1, *shape)
