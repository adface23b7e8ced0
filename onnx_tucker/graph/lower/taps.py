"""Depthwise 3D convolutions as a 2D one for each tap in time, shifted along the frames and added.

All frames of all channels are the channels of these, so that nothing has to be transposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

import numpy as np

from onnx_tucker.forms.temporal import Temporal
from onnx_tucker.graph.lower.frames import of_plane
from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.types import Array, Stage, Window

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
        stage: a depthwise one.
        weight: name of the weight, as `stored` gives it.
        bias: name of the bias, or empty.
        size: frames, height, width of the input.
        output: the value that comes out.
    """
    window, channels = stage.window.explicit(size), stage.groups
    layer = _Layer(writer, window, channels, size, weight)
    frames = writer.reshape(x, -1, channels, size[0], math.prod(size[1:]))
    smaller = max(window.strides) > window.strides[0] == 1
    y = (layer.shifted if smaller else layer.shifting)(frames, Temporal.of(window, size), bias)
    writer.reshape(y, -1, channels, *window.output_size(size), output=output)


@dataclass(frozen=True)
class _Layer:
    """The 2D convolutions, of values (batch, channels, frames, positions).

    Attributes:
        writer: takes the nodes.
        window: of the stage, with explicit pads.
        channels: how many.
        size: frames, height, width of the input.
        weight: as `stored` gives it.
    """

    writer: Writer
    window: Window
    channels: int
    size: tuple[int, ...]
    weight: str

    def shifting(self, x: str, temporal: Temporal, bias: str) -> str:
        """Each tap on the frames that it sees, between frames of zeros."""
        write, count = self.writer, self._aligned(temporal.outputs)
        first, last = self._late(temporal.taps[0]), self._late(temporal.taps[-1])
        before, reach = max(0, -first), (count - 1) * temporal.stride + 1
        padded = write.pad(x, 2, before, max(0, last + reach - self.size[0]))
        parts = []
        for tap in temporal.taps:
            seen = self._every(padded, self._late(tap) + before, reach, temporal.stride)
            parts.append(self._convolved(seen, tap, count, bias))
            bias = ""
        y = self._frames(reduce(lambda a, b: write.add("Add", a, b), parts), count)  # as onnxruntime merges these
        return y if count == temporal.outputs else write.slice(y, 2, 0, temporal.outputs)

    def shifted(self, x: str, temporal: Temporal, bias: str) -> str:
        """Each tap on all frames, and then its results, which are fewer."""
        write, count = self.writer, self._aligned(self.size[0])
        padded, sure = write.pad(x, 2, 0, count - self.size[0]), temporal.sure_tap() if bias else None
        parts = [write.reshape(bias, 1, self.channels, 1, 1)] if bias and sure is None else []
        for i, tap in enumerate(temporal.taps):
            late, y = self._late(tap), self._convolved(padded, tap, count, bias if i == sure else "")
            y = self._frames(y, count)
            parts.append(write.pad(y, 2, -late, temporal.outputs + late - count))
        return reduce(lambda a, b: write.add("Add", a, b), parts)

    def _every(self, x: str, start: int, reach: int, stride: int) -> str:
        """The frames that a tap sees, of those that it reaches."""
        if stride == 1:
            return self.writer.slice(x, 2, start, start + reach)
        return self.writer.add("Gather", x, self.writer.constant(np.arange(start, start + reach, stride)), axis=2)

    def _late(self, tap: int) -> int:
        """Which frame a tap sees for the first output."""
        return tap * self.window.dilations[0] - self.window.pads[0]

    def _aligned(self, frames: int) -> int:
        """So many frames, or as few more as there have to be; those of zeros are what padding is."""
        return next(n for n in range(frames, frames + ALIGNED) if self.channels * n % ALIGNED == 0)

    def _convolved(self, x: str, tap: int, count: int, bias: str) -> str:
        """What a tap makes of so many frames: (batch, channels * frames, height, width)."""
        write, window = self.writer, self.window
        kernel = write.product(np.eye(window.kernel[0])[tap : tap + 1], self.weight)
        kernel = self._of_frames(write.reshape(kernel, self.channels, 1, -1), count, 1, *window.kernel[1:])
        own = [self._of_frames(write.reshape(bias, self.channels, 1, 1), count)] if bias else []
        images = write.reshape(x, -1, self.channels * count, *self.size[1:])
        return write.add("Conv", images, kernel, *own, **of_plane(window, self.channels * count))

    def _frames(self, y: str, count: int) -> str:
        """What the convolutions give, as (batch, channels, frames, positions)."""
        return self.writer.reshape(y, -1, self.channels, count, math.prod(self.window.output_size(self.size)[1:]))

    def _of_frames(self, value: str, count: int, *shape: int) -> str:
        """What channels have, (channels, 1, values), for each of their frames: (channels * count, *shape)."""
        ones = self.writer.constant(np.ones((1, count, 1), np.float32))
        return self.writer.reshape(self.writer.add("Mul", value, ones), -1, *shape)
