"""1D convolutions as 2D ones on one row, and 3D ones that look along frames only as 2D ones on rows of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.types import Array, Stage


def stored(stage: Stage, weight: Array) -> Array:
    """The weight of a stage with the two axes that its 2D convolution has."""
    kernel = stage.window.kernel
    return weight.reshape(*weight.shape[:2], *((1, *kernel) if len(kernel) == 1 else (kernel[0], 1)))


def convolve(
    writer: Writer,
    x: str,
    stages: Sequence[Stage],
    weights: Sequence[str],
    bias: str,
    size: tuple[int, ...] | None,
    output: str,
) -> None:
    """A whole chain, on values (batch, channels, length) or (batch, channels, frames, height, width).

    Args:
        writer: takes the nodes.
        x: the value that goes in.
        stages: the chain.
        weights: names of the weights, as `stored` gives them.
        bias: name of the bias, or empty.
        size: spatial size of the input; only for three axes.
        output: the value that comes out.
    """
    line, across = len(stages[0].window.kernel) == 1, (size or ())[1:]
    y = writer.squeeze(x, 2, back=True) if line else writer.reshape(x, 0, 0, 0, math.prod(across))
    for i, (stage, weight) in enumerate(zip(stages, weights, strict=True)):
        window, last = stage.window, i == len(stages) - 1
        along = [window.kernel[0], window.strides[0], window.dilations[0]]
        kernel, strides, dilations = ([1, n] if line else [n, 1] for n in along)
        begin, end = window.pads[0], window.pads[len(window.kernel)]
        pads = [0, begin, 0, end] if line else [begin, 0, end, 0]
        inputs = filter(None, (y, weight, bias if last else ""))
        y = writer.add(
            "Conv", *inputs, kernel_shape=kernel, strides=strides, dilations=dilations, pads=pads, group=stage.groups
        )
    if line:
        writer.squeeze(y, 2, output=output)
    else:
        writer.reshape(y, 0, 0, 0, *across, output=output)
