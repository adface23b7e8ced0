"""3D convolutions as 2D ones on frames.

A value (batch, channels, frames, height, width) is kept as (batch * frames, channels, height, width). Every stage of a
chain is y = A conv2d(B x), with the matrices of `forms.temporal`. Weights are stored once, in the order that the 2D
convolution wants; what it needs besides (transformed, widened) is computed from them by nodes without other inputs,
which onnxruntime folds when it loads the model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_tucker.forms import Form
from onnx_tucker.forms.temporal import Temporal, Tiles
from onnx_tucker.forms.toom_cook import UNIT
from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.types import Array, Stage, Window


@dataclass(frozen=True)
class Frames:
    """A value that is kept as frames.

    Attributes:
        name: of the value.
        channels: all of them.
        size: frames, height, width.
        batch: its size, or a name for a free one: values with equal names have equal batches.
    """

    name: str
    channels: int
    size: tuple[int, ...]
    batch: int | str = ""

    @property
    def volume(self) -> int:
        """Elements of one frame."""
        return self.channels * math.prod(self.size[1:])


def enter(writer: Writer, value: str, frames: Frames) -> None:
    """Writes the frames of a value (batch, channels, frames, height, width)."""
    turned = writer.add("Transpose", value, perm=[0, 2, 1, 3, 4])
    writer.reshape(turned, -1, frames.channels, *frames.size[1:], output=frames.name)


def leave(writer: Writer, frames: Frames, output: str) -> None:
    """Writes the value (batch, channels, frames, height, width) of frames."""
    frames_, *plane = frames.size
    parted = writer.reshape(frames.name, -1, frames_, frames.channels, *plane)
    writer.add("Transpose", parted, perm=[0, 2, 1, 3, 4], output=output)


def stored(stage: Stage, weight: Array, form: Form, size: tuple[int, ...]) -> Array:
    """The weight of a stage in the order in which `convolve` takes it, without the taps that meet padding only."""
    taps = Temporal.of(stage.window.explicit(size), size).taps
    used = weight[:, :, taps.start : taps.stop]
    out, inp, count, height, width = used.shape
    if stage.window.transposed:
        order, shape = (1, 2, 0, 3, 4), (inp, count * out, height, width)
    elif count == 1 or form.kind == "frames_in":
        order, shape = (0, 2, 1, 3, 4), (out, count * inp, height, width)
    elif form.kind == "frames_out":
        order, shape = (2, 0, 1, 3, 4), (count * out, inp, height, width)
    else:
        return np.asarray(used.transpose(2, 0, 1, 3, 4).reshape(count, -1))
    return np.asarray(used.transpose(order).reshape(shape))


def convolve(writer: Writer, x: Frames, stage: Stage, form: Form, weight: str, bias: str, output: str) -> Frames:
    """One stage on frames.

    Args:
        writer: takes the nodes.
        x: the frames that go in.
        stage: the stage.
        form: one that fits.
        weight: name of the weight, as `stored` gives it.
        bias: name of the bias, or empty.
        output: name of the frames that come out, or empty for a new one.
    """
    window = stage.window.explicit(x.size)
    temporal, size = Temporal.of(window, x.size), window.output_size(x.size)
    result = Frames(output, stage.out * stage.groups, size, x.batch)
    layer = _Layer(writer, window, stage.groups, x.size, size, form.columns)
    if form.kind == "frames_out" and not temporal.trivial:
        return _taps_out(layer, x, result, temporal, weight, bias)
    if form.kind == "tiles" and len(temporal.taps) > 1:
        return (_split_tiles if form.split else _tiles)(layer, x, result, temporal.tiles(form.tile), weight, bias)
    name, channels = x.name, x.channels
    if not temporal.trivial:
        channels *= len(temporal.taps)
        name = writer.reshape(_mix(writer, name, temporal.taps_in(), x), -1, channels, *x.size[1:])
    return replace(result, name=layer(name, channels, weight, bias, result.channels, stage.groups, output))


def _taps_out(layer: _Layer, x: Frames, result: Frames, temporal: Temporal, weight: str, bias: str) -> Frames:
    """Every frame gives the results of all taps, and A adds what belongs together."""
    writer, taps = layer.writer, len(temporal.taps)
    sure = temporal.sure_tap() if bias else None
    inner = "" if sure is None else _spread(writer, bias, np.eye(taps)[sure], result.channels)
    y = layer(x.name, x.channels, weight, inner, taps * result.channels, layer.groups)
    y = writer.product(temporal.taps_out(), writer.reshape(y, -1, x.size[0] * taps, result.volume))
    late = bool(bias) and sure is None
    y = writer.reshape(y, -1, result.channels, *result.size[1:], output="" if late else result.name)
    if late:
        y = writer.add("Add", y, writer.reshape(bias, -1, 1, 1), output=result.name)
    return replace(result, name=y)


def _tiles(layer: _Layer, x: Frames, result: Frames, tiles: Tiles, weight: str, bias: str) -> Frames:
    """All products as the groups of one convolution."""
    writer, count = layer.writer, tiles.products
    v = _mix(writer, x.name, tiles.spread.transpose(1, 0, 2).reshape(-1, x.size[0]), x)
    v = writer.reshape(v, -1, count * x.channels, *x.size[1:])
    kernels = layer.kernels(tiles.kernel, x, result, weight)
    inner = _spread(writer, bias, np.eye(count)[UNIT], result.channels) if bias else ""
    y = layer(v, count * x.channels, kernels, inner, count * result.channels, count * layer.groups)
    y = writer.reshape(y, -1, tiles.images * count, result.volume)
    return _gathered(writer, y, tiles.gather.transpose(0, 2, 1), result)


def _split_tiles(layer: _Layer, x: Frames, result: Frames, tiles: Tiles, weight: str, bias: str) -> Frames:
    """Every product as a convolution of its own."""
    writer = layer.writer
    frames = writer.reshape(x.name, -1, x.size[0], x.volume)
    parts = []
    for j, (spread, kernel) in enumerate(zip(tiles.spread, tiles.kernel, strict=True)):
        v = writer.reshape(writer.product(spread, frames), -1, x.channels, *x.size[1:])
        own = layer.kernels(kernel[None], x, result, weight)
        y = layer(v, x.channels, own, bias if j == UNIT else "", result.channels, 1)
        parts.append(writer.reshape(y, -1, tiles.images, result.volume))
    return _gathered(writer, writer.add("Concat", *parts, axis=1), tiles.gather, result)


def _gathered(writer: Writer, y: str, gather: Array, result: Frames) -> Frames:
    """The frames of the output from the rows (batch, rows, volume) of `y`."""
    mixed = writer.product(gather.reshape(len(gather), -1), y)
    return replace(result, name=writer.reshape(mixed, -1, result.channels, *result.size[1:], output=result.name))


def _spread(writer: Writer, bias: str, shares: Array, channels: int) -> str:
    """The bias times each of the shares, one after the other."""
    column = writer.constant(shares[:, None].astype(np.float32))
    return writer.reshape(writer.add("MatMul", column, writer.reshape(bias, 1, channels)), -1)


def _mix(writer: Writer, value: str, matrix: Array, x: Frames) -> str:
    """A matrix applied to the frames of each sample: (batch, rows, volume)."""
    return writer.product(matrix, writer.reshape(value, -1, x.size[0], x.volume))


def of_plane(window: Window, groups: int) -> dict[str, Any]:
    """The attributes of a convolution along height and width, as a window with explicit pads has them."""
    return {
        "kernel_shape": window.kernel[1:],
        "strides": window.strides[1:],
        "dilations": window.dilations[1:],
        "pads": (*window.pads[1:3], *window.pads[4:]),
        "group": groups,
    }


@dataclass(frozen=True)
class _Layer:
    """The 2D convolution of a stage.

    Attributes:
        writer: takes the nodes.
        window: of the stage, with explicit pads.
        groups: of the stage.
        size: frames, height, width of the input.
        out_size: the same of the output.
        columns: output columns that are computed as channels, unless the kernel has one element.
    """

    writer: Writer
    window: Window
    groups: int
    size: tuple[int, ...]
    out_size: tuple[int, ...]
    columns: int

    def kernels(self, transform: Array, x: Frames, result: Frames, weight: str) -> str:
        """The kernels of tiles, for each row of the transform one, from the taps that are stored."""
        shape = (len(transform) * result.channels, x.channels // self.groups, *self.window.kernel[1:])
        return self.writer.reshape(self.writer.product(transform, weight), *shape)

    def __call__(self, x: str, inp: int, weight: str, bias: str, out: int, groups: int, output: str = "") -> str:
        """Writes it, from `inp` to `out` channels in so many groups."""
        window = self.window
        if self.columns > 1 and window.kernel[1:] != (1, 1):
            return self._packed(x, inp, weight, bias, out, output)
        attributes = of_plane(window, groups)
        if any(window.output_padding[1:]):
            attributes["output_padding"] = window.output_padding[1:]
        op = "ConvTranspose" if window.transposed else "Conv"
        return self.writer.add(op, *filter(None, (x, weight, bias)), output=output, **attributes)

    def _packed(self, x: str, inp: int, weight: str, bias: str, out: int, output: str) -> str:
        """Neighbouring output columns as channels of a wider kernel, then put side by side again."""
        window, columns, write = self.window, self.columns, self.writer
        height, width = window.kernel[1:]
        stride = window.strides[2]
        wider = width + (columns - 1) * stride
        places = np.zeros((width, columns, wider), np.float32)
        for column in range(columns):
            places[:, column, column * stride : column * stride + width] = np.eye(width)
        kernels = write.add("MatMul", write.reshape(weight, -1, width), write.constant(places.reshape(width, -1)))
        kernels = write.reshape(kernels, out, inp, height, columns, wider)
        kernels = write.add("Transpose", kernels, perm=[3, 0, 1, 2, 4])
        kernels = write.reshape(kernels, columns * out, inp, height, wider)
        biases = [write.add("Concat", *[bias] * columns, axis=0)] if bias else []
        rows, full = self.out_size[1:]
        line = -(-full // columns)
        right = (line - 1) * columns * stride + wider - self.size[2] - window.pads[2]
        y = write.add(
            "Conv",
            x,
            kernels,
            *biases,
            kernel_shape=[height, wider],
            strides=[window.strides[1], columns * stride],
            dilations=[window.dilations[1], 1],
            pads=[*window.pads[1:3], window.pads[4], max(right, 0)],
        )
        y = write.add("Transpose", write.reshape(y, -1, columns, out, rows, line), perm=[0, 2, 3, 4, 1])
        whole = line * columns == full
        y = write.reshape(y, -1, out, rows, line * columns, output=output if whole else "")
        return y if whole else write.slice(y, 3, 0, full, output)
