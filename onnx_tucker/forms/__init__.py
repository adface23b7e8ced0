"""Forms: how the arithmetic of a chain is laid out. All forms of a chain compute the same, up to rounding.

- `direct`: layers of the node's own operator.
- `plane`: each layer as a 2D one on reshaped values: a 1D convolution on one row, and a 3D one that looks at one
  frame's position or one row of positions only.
- `taps`: a depthwise 3D convolution as a 2D one for each tap in time, and the sum of their results.
- `frames_in`, `frames_out`, `tiles`: each layer as a 2D convolution on the frames of a 3D one; see `temporal`.
  The value between layers is then kept as (batch * frames, channels, height, width).

Kernels for 2D convolution work on blocks of channels. `columns` output columns side by side are computed as channels
of one wider kernel where there are too few channels to fill a block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnx_tucker.forms.temporal import Temporal
from onnx_tucker.forms.toom_cook import POINTS
from onnx_tucker.types import Stage

BLOCK = 16
"""Channels that a kernel computes together on AVX-512; half of it on AVX2."""
FLOAT_MACS = 30
"""Multiply-accumulates that take as long as moving one float through memory, for estimates only."""
LONGEST = 256
"""Frames from which on the matrices over frames would be too large."""
NODE_MACS = 500_000
"""Multiply-accumulates that take as long as starting one operator, for estimates only."""


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        kind: "direct", "plane", "taps", "frames_in", "frames_out" or "tiles".
        tile: of "tiles", outputs from one tile.
        split: of "tiles", whether each product is a convolution of its own, and not a group of one.
        columns: output columns that are computed as channels.
    """

    kind: str
    tile: int = 0
    split: bool = False
    columns: int = 1

    def __str__(self) -> str:
        parts = [self.kind + (str(self.tile) if self.tile else ""), "split" if self.split else ""]
        parts.append(f"columns{self.columns}" if self.columns > 1 else "")
        return "_".join(filter(None, parts))

    @property
    def on_frames(self) -> bool:
        """Whether values between layers are kept as frames."""
        return self.kind not in ("direct", "plane", "taps")


COLUMNS = (2, 4, 8)
DIRECT, PLANE, TAPS = Form("direct"), Form("plane"), Form("taps")
FORMS: dict[str, Form] = {
    str(form): form
    for form in (
        DIRECT,
        PLANE,
        TAPS,
        *(Form(kind, columns=c) for kind in ("frames_in", "frames_out") for c in (1, *COLUMNS)),
        *(Form("tiles", tile) for tile in (2, 3, 4, 5, 6)),
        *(Form("tiles", tile, True, c) for tile in (2, 3, 4, 5, 6) for c in (1, *COLUMNS)),
    )
}
"""All forms by name, as in plans and reports."""


def fitting(stages: Sequence[Stage], size: tuple[int, ...] | None) -> Iterator[Form]:
    """The forms that a chain of convolutions can have, besides `direct`.

    Args:
        stages: the chain.
        size: spatial size of its input where the model fixes it.
    """
    if _fits_plane(stages, size):
        yield PLANE
    if size is None or len(size) != 3 or min(size) < 1:
        return
    if _fits_depthwise(stages, size):
        yield TAPS
    for form in FORMS.values():
        if form.on_frames and _fits_frames(stages, size, form):
            yield form


def _fits_plane(stages: Sequence[Stage], size: tuple[int, ...] | None) -> bool:
    if any(stage.window.transposed or stage.window.auto_pad != "NOTSET" for stage in stages):
        return False
    axes = len(stages[0].window.kernel)
    return axes == 1 or (axes == 3 and size is not None and all(_flat(stage) for stage in stages))


def _fits_depthwise(stages: Sequence[Stage], size: tuple[int, ...]) -> bool:
    stage, window = stages[0], stages[0].window
    alone = len(stages) == 1 and stage.inp == stage.out == 1 and stage.groups > 1
    return alone and not window.transposed and min(window.output_size(size)) > 0


def _flat(stage: Stage) -> bool:
    """Whether a 3D layer looks along frames only, and keeps height and width."""
    window = stage.window
    still = window.kernel[1:] == window.strides[1:] == (1, 1)
    return still and not any(window.pads[1:3] + window.pads[4:])


def _fits_frames(stages: Sequence[Stage], size: tuple[int, ...], form: Form) -> bool:
    matters = form == Form("frames_in")  # a form that nothing in a chain depends on is this one
    for stage in stages:
        window, out_size = stage.window, stage.window.output_size(size)
        odd = window.auto_pad != "NOTSET" or window.output_shape or stage.groups > 1 or form.kind != "frames_out"
        if min(out_size) < 1 or (window.transposed and odd):
            return False
        if max(size[0], out_size[0], window.kernel[0]) > LONGEST:
            return False
        temporal = Temporal.of(window.explicit(size), size)
        taps = len(temporal.taps)
        if taps > 1 and not window.transposed and not _fits_taps(stage, temporal, form):
            return False
        wide = form.columns > 1 and window.kernel[1:] != (1, 1)
        if wide and not _fits_columns(stage, taps if form.kind == "frames_out" else 1, out_size, form):
            return False
        mixed = form.kind == "frames_out" and not temporal.trivial
        matters = matters or taps > 1 or mixed or wide
        size = out_size
    return matters


def _fits_taps(stage: Stage, temporal: Temporal, form: Form) -> bool:
    if form.kind != "tiles":
        return stage.groups == 1
    known = 1 < form.tile <= temporal.outputs and form.tile + len(temporal.taps) <= len(POINTS) + 2
    return temporal.stride == 1 and known and not (form.split and stage.groups > 1)


def _fits_columns(stage: Stage, results: int, out_size: tuple[int, ...], form: Form) -> bool:
    """Whether a stage, with so many results for each output channel, has too few channels and enough columns."""
    window = stage.window
    plain = window.dilations[2] == 1 and not window.transposed and stage.groups == 1
    return plain and stage.out * results < BLOCK and form.columns <= out_size[2]


def effort(stages: Sequence[Stage], shape: tuple[int, ...], form: Form) -> float:
    """A rough estimate of the time of a chain on frames, in multiply-accumulates; only good for leaving forms out.

    Args:
        stages: the chain.
        shape: (batch, channels, frames, height, width) of its input.
        form: a form that fits.
    """
    return sum(work.effort for work in _works(stages, shape, form)) * shape[0]


def macs(stages: Sequence[Stage], shape: tuple[int, ...], form: Form) -> int:
    """Multiply-accumulates of a chain on frames, with those of the matrices over frames.

    Args:
        stages: the chain.
        shape: (batch, channels, frames, height, width) of its input.
        form: a form that fits.
    """
    return sum(work.macs for work in _works(stages, shape, form)) * shape[0]


@dataclass(frozen=True)
class _Work:
    """What a stage on frames does for a sample.

    Attributes:
        stage: the stage.
        images: what its 2D convolution is run on.
        channels: of these.
        results: channels that it gives.
        positions: of an image at which it multiplies.
        areas: positions of an image that it takes and gives.
        mixes: products over frames: rows, columns, and values of a frame.
        nodes: that are started.
        moved: floats that are moved besides.
        columns: output columns that are computed as channels.
    """

    stage: Stage
    images: int
    channels: int
    results: int
    positions: int
    areas: tuple[int, int]
    mixes: Sequence[tuple[int, int, int]]
    nodes: int
    moved: int
    columns: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return round(self._multiplied(self.results)) + sum(math.prod(mix) for mix in self.mixes)

    @property
    def effort(self) -> float:
        """See `effort`."""
        groups, columns = self.stage.groups, self.columns
        if self.channels == self.results == groups:
            groups = 1  # a kernel computes several of these together
        blocks = math.ceil(self.results / groups * columns / BLOCK) * BLOCK / columns * groups
        ragged = 1.5 if self.channels / groups >= BLOCK and self.channels / groups % 4 else 1.0
        given = self.results * self.areas[1] * (2 if columns > 1 else 1)
        moved = self.moved + self.images * (self.channels * self.areas[0] + given)
        mixed = sum(math.prod(mix) + (mix[0] + mix[1]) * mix[2] * FLOAT_MACS for mix in self.mixes)
        return self._multiplied(blocks) * ragged + mixed + moved * FLOAT_MACS + self.nodes * NODE_MACS

    def _multiplied(self, results: float) -> float:
        """Multiply-accumulates of the 2D convolution if it gives so many channels."""
        _, height, width = self.stage.window.kernel
        wider = width + self.stage.window.strides[2] * (self.columns - 1)
        return self.images * self.positions * self.channels / self.stage.groups * results * height * wider


def _works(stages: Sequence[Stage], shape: tuple[int, ...], form: Form) -> Iterator[_Work]:
    size = shape[2:]
    for stage in stages:
        yield _work(stage, size, form)
        size = stage.window.output_size(size)


def _work(stage: Stage, size: tuple[int, ...], form: Form) -> _Work:
    temporal = Temporal.of(stage.window.explicit(size), size)
    out_size, taps = stage.window.output_size(size), len(temporal.taps)
    inp, out = stage.inp * stage.groups, stage.out * stage.groups
    frames_in, frames_out = temporal.frames, temporal.outputs
    areas = math.prod(size[1:]), math.prod(out_size[1:])
    taken, given, moved = inp * areas[0], out * areas[1], 0
    mixes: list[tuple[int, int, int]] = []
    if temporal.trivial:
        images, channels, results, nodes = frames_out, inp, out, 1
    elif form.kind == "frames_in" or (form.kind == "tiles" and taps == 1):
        images, channels, results, nodes = frames_out, inp * taps, out, 2
        mixes = [(frames_out * taps, frames_in, taken)]
    elif form.kind == "frames_out":
        images, channels, results, nodes = frames_in, inp, out * taps, 2
        mixes = [(frames_out, frames_in * taps, given)]
    else:
        tiles = temporal.tiles(form.tile)
        images, channels, results, nodes = tiles.images * tiles.products, inp, out, 2
        mixes = [(images, frames_in, taken), (frames_out, images, given)]
        if form.split:
            nodes, moved = 2 * tiles.products, images * (taken + given) // 2
    columns = form.columns if math.prod(stage.window.kernel[1:]) > 1 else 1
    if stage.window.transposed:
        positions = areas[0]
    else:
        positions = out_size[1] * -(-out_size[2] // columns) * columns
    return _Work(stage, images, channels, results, positions, areas, mixes, nodes, moved, columns)
