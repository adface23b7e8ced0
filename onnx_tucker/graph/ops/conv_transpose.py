"""ConvTranspose with a constant weight: its kernel spreads out every position of the input.

The core keeps the kernel and all that shapes the output; the stages that only mix channels are pointwise Conv nodes.
A transposed convolution's weight is stored (groups * in, out, *kernel).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_tucker.graph.context import Context
from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.conv import convolution, emit, weight_of, window_of
from onnx_tucker.graph.ops.op import Op, Reading, Seat, refuse
from onnx_tucker.types import Array, Stage


def read(place: Place, context: Context) -> Reading:
    """Reads a ConvTranspose node."""
    weight = weight_of(place, context, _stage)
    if isinstance(weight, Reading):
        return weight
    stage = _stage(place, weight.shape)
    sizes = (context.shape(place, 0) or ())[2:]
    if any(size < own for size, own in zip(stage.window.output_shape, sizes, strict=False)):
        return refuse(place, "onnx finds no shape for an output_shape below its input's", weight)
    seat = Seat(weight, 1, 0, ("ConvTranspose", stage.groups), store)
    return convolution(place, context, stage, seat, lambda array: _swap(array, stage.groups))


def _stage(place: Place, shape: Sequence[int]) -> Stage:
    """The node as the only stage of a chain, by the shape of its weight."""
    given, (inp, out, *kernel) = attributes(place.node), shape
    groups, axes = given.get("group", 1), len(kernel)
    window = replace(
        window_of(given, tuple(kernel)),
        transposed=True,
        output_padding=tuple(given.get("output_padding", [0] * axes)),
        output_shape=tuple(given.get("output_shape", []))[-axes:],
    )
    return Stage(out, inp // groups, window, groups)


def store(stage: Stage, factor: Array) -> Array:
    """A stage's weight as its node stores it."""
    return _swap(factor, stage.groups) if stage.window.transposed else factor


def _swap(weight: Array, groups: int) -> Array:
    """(groups * a, b, *kernel) to (groups * b, a, *kernel), group by group."""
    return np.concatenate([np.swapaxes(part, 0, 1) for part in np.split(weight, groups)])


CONV_TRANSPOSE = Op("", read, emit)
