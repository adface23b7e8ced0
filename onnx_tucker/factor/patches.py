"""The rows of a layer as a regression: what every output position sees of the input, and what it gives.

For a convolution this is the im2col of sampled positions; a transposed one sees the inputs that spread out to it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.types import Array, Stage, Window


def patches(stage: Stage, x: Array, rows: NDArray[np.int64]) -> Array:
    """What output positions see, with zeros for padding, (rows, groups, in * volume).

    Args:
        stage: the layer; its window has explicit pads.
        x: the input (batch, groups * in, *spatial).
        rows: numbers of output positions in the order (batch, *spatial).
    """
    window = stage.window
    size = window.output_size(x.shape[2:])
    sample, *positions = np.unravel_index(rows, (len(x), *size))
    axes = len(size)
    index: list[NDArray[np.int64]] = []
    seen = np.ones((len(rows), *(1,) * axes), bool)
    for axis, position in enumerate(positions):
        at, inside = _seen(window, axis, position, x.shape[2 + axis])
        along = (len(rows), *(len(at[0]) if i == axis else 1 for i in range(axes)))
        index.append(at.reshape(along))
        seen = seen & inside.reshape(along)
    where: tuple[Any, ...] = (sample.reshape(-1, *(1,) * axes), slice(None), *index)
    found = np.moveaxis(x[where] * seen[..., None], -1, 1)  # the channels come last where indices surround them
    return np.asarray(found.reshape(len(rows), stage.groups, -1))


def outputs(stage: Stage, y: Array, rows: NDArray[np.int64]) -> Array:
    """The values at output positions, (rows, groups, out), of an output (batch, groups * out, *spatial)."""
    sample, *positions = np.unravel_index(rows, (len(y), *y.shape[2:]))
    where: tuple[Any, ...] = (sample, slice(None), *positions)
    return np.asarray(y[where].reshape(len(rows), stage.groups, -1))


def count(y: Array) -> int:
    """Number of output positions of an output (batch, channels, *spatial)."""
    return len(y) * math.prod(y.shape[2:])


def _seen(
    window: Window, axis: int, position: NDArray[np.int64], length: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Input coordinates along an axis for every kernel element, clipped, and whether they were inside."""
    stride, pad = window.strides[axis], window.pads[axis]
    offset = np.arange(window.kernel[axis]) * window.dilations[axis]
    if window.transposed:
        at, left = np.divmod(position[:, None] + pad - offset, stride)
    else:
        at, left = position[:, None] * stride - pad + offset, np.zeros(1, np.int64)
    inside = (left == 0) & (at >= 0) & (at < length)
    return np.clip(at, 0, max(length - 1, 0)), inside
