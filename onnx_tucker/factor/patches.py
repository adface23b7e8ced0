"""The rows of a layer as a regression: what every output position sees of the input, and what it gives.

For a convolution this is the im2col of sampled positions; a transposed one sees the inputs that spread out to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.types import Array, Stage, Window

EXTRA = 64
"""Further multiplications for a value that is seen, from which on to write out what each position sees takes less time.

Of 32 channels, 3x3 and pools of 2x2, products with a weight that is spread over windows took .62 of the time of patches
written out each time, of 128 channels 1.2, and of 512 2.1.
"""


def patches(stage: Stage, x: Array, rows: NDArray[np.int64]) -> Array:
    """What output positions see, with zeros for padding, (rows, groups, in * volume).

    Args:
        stage: the layer; its window has explicit pads.
        x: the input (batch, groups * in, *spatial).
        rows: numbers of output positions in the order (batch, *spatial).
    """
    sample, *positions = np.unravel_index(rows, (len(x), *stage.window.output_size(x.shape[2:])))
    return _around(stage.window, x, sample, positions).reshape(len(rows), stage.groups, -1)


def cut(stage: Stage, x: Array, window: tuple[int, ...], rows: NDArray[np.int64]) -> tuple[Stage, Array]:
    """The parts of the input that windows of output positions see, and the layer without pads that is to see them.

    Where windows overlap little in what they see, or the layer has many outputs, the parts are the patches of single
    positions, and the layer is a matrix product.

    Args:
        stage: the layer; its window has explicit pads.
        x: the input (batch, groups * in, *spatial).
        window: lengths of the windows; empty for single positions.
        rows: numbers of output positions, (windows, positions of one).
    """
    own = stage.window
    reach = tuple(
        (length - 1) * stride + dilation * (kernel - 1) + 1
        for length, stride, dilation, kernel in zip(window, own.strides, own.dilations, own.kernel, strict=False)
    )
    seen = math.prod(reach)
    apart = seen >= math.prod(window) * own.volume or (seen / own.volume - 1) * stage.out > EXTRA
    if not window or own.transposed or apart:
        matrix = Stage(stage.out, stage.inp * own.volume, Window(), stage.groups)
        return matrix, patches(stage, x, rows.ravel()).reshape(rows.size, -1)
    sample, *positions = np.unravel_index(rows[:, 0], (len(x), *own.output_size(x.shape[2:])))
    found = _around(replace(own, kernel=reach, dilations=(1,) * len(reach)), x, sample, positions)
    return replace(stage, window=replace(own, pads=(0,) * 2 * len(reach))), found


def spread(stage: Stage, weight: Array, reach: tuple[int, ...]) -> Array:
    """The weight of a layer without pads as a matrix on all that a window sees, (groups, positions * out, in * reach).

    A product with it takes more multiplications than one with the patches of all positions, but those overlap, and to
    write them out takes longer than to multiply them where a layer has few outputs.

    Args:
        stage: the layer.
        weight: of all groups, one after another, (groups * out, in, *kernel) or flattened.
        reach: lengths of what a window sees.
    """
    shaped = weight.reshape(stage.groups, stage.out, stage.inp, *stage.window.kernel)
    boxes = _boxes(stage.window, reach)
    found = np.zeros((stage.groups, len(boxes), stage.out, stage.inp, *reach), weight.dtype)
    for part, box in zip(found.swapaxes(0, 1), boxes, strict=True):
        part[box] = shaped
    return found.reshape(stage.groups, len(boxes) * stage.out, -1)


def gathered(stage: Stage, change: Array, reach: tuple[int, ...]) -> Array:
    """The derivative by the weight, (groups, out, in * volume), from that by the matrix that `spread` makes of it."""
    boxes = _boxes(stage.window, reach)
    shaped = change.reshape(stage.groups, len(boxes), stage.out, stage.inp, *reach)
    parts = (part[box] for part, box in zip(shaped.swapaxes(0, 1), boxes, strict=True))
    return np.asarray(sum(parts)).reshape(stage.groups, stage.out, -1)


def _boxes(window: Window, reach: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Where each output position sees what a window of them does, on the last axes of an array."""
    spans = [dilation * (kernel - 1) + 1 for kernel, dilation in zip(window.kernel, window.dilations, strict=True)]
    starts = [range(0, size - span + 1, s) for size, span, s in zip(reach, spans, window.strides, strict=True)]
    ends = list(zip(spans, window.dilations, strict=True))
    return [
        (..., *(slice(start, start + span, step) for start, (span, step) in zip(at, ends, strict=True)))
        for at in itertools.product(*starts)
    ]


def _around(window: Window, x: Array, sample: NDArray[np.int64], positions: Sequence[NDArray[np.int64]]) -> Array:
    """What output positions see of all channels, with zeros for padding, (rows, channels, *kernel)."""
    rows, axes = len(sample), len(positions)
    index: list[NDArray[np.int64]] = []
    seen = np.ones((rows, *(1,) * axes), bool)
    for axis, position in enumerate(positions):
        at, inside = _seen(window, axis, position, x.shape[2 + axis])
        along = (rows, *(len(at[0]) if i == axis else 1 for i in range(axes)))
        index.append(at.reshape(along))
        seen = seen & inside.reshape(along)
    where: tuple[Any, ...] = (sample.reshape(-1, *(1,) * axes), slice(None), *index)
    # The channels come last where indices surround them.
    return np.ascontiguousarray(np.moveaxis(np.where(seen[..., None], x[where], x.dtype.type(0)), -1, 1))


def outputs(stage: Stage, y: Array, rows: NDArray[np.int64]) -> Array:
    """The values at output positions, (rows, groups, out), of an output (batch, groups * out, *spatial)."""
    sample, *positions = np.unravel_index(rows, (len(y), *y.shape[2:]))
    where: tuple[Any, ...] = (sample, slice(None), *positions)
    return np.asarray(y[where].reshape(len(rows), stage.groups, -1))


def count(shape: tuple[int, ...]) -> int:
    """Number of output positions of an output (batch, channels, *spatial)."""
    return shape[0] * math.prod(shape[2:])


def draw(shape: tuple[int, ...], window: tuple[int, ...], number: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Numbers of output positions in windows drawn at random, (windows, positions of one).

    Args:
        shape: of the output, (batch, channels, *spatial).
        window: lengths of the windows, which lie side by side; empty for single positions.
        number: how many windows.
        rng: draws them.
    """
    lengths = window or (1,) * (len(shape) - 2)
    cells = (shape[0], *(size // length for size, length in zip(shape[2:], lengths, strict=True)))
    every = math.prod(cells)
    sample, *corner = np.unravel_index(rng.choice(every, min(number, every), replace=False), cells)
    within = np.array(list(np.ndindex(*lengths)), np.int64)
    at = [c[:, None] * length + within[:, i] for i, (c, length) in enumerate(zip(corner, lengths, strict=True))]
    found = np.ravel_multi_index(
        (np.broadcast_to(sample[:, None], (len(sample), len(within))), *at), (shape[0], *shape[2:])
    )
    return np.asarray(found, np.int64)


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
