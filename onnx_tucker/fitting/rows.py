"""The rows of a node: what its output positions see and are to give, read at positions drawn at random."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.factor.moments import Moments
from onnx_tucker.factor.patches import count, cut, draw, outputs, patches, spread
from onnx_tucker.factor.regression import Statistics
from onnx_tucker.factor.samples import Samples, joined
from onnx_tucker.fitting.obstacles import own_bias, unread
from onnx_tucker.graph.find import Found
from onnx_tucker.job import NOT_FINITE, Job
from onnx_tucker.planning.groups import holders
from onnx_tucker.runtime.batches import turns
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.types import Array, Stage

logger = logging.getLogger(__name__)

VALUES, SEEN_VALUES = 5e7, 5e8
"""The most values of the input that all rows of a node see together; more of windows, as these overlap in them."""
WIDE_ROWS, WIDE_VALUES = 4096, 2.5e7
"""The most rows, and the most values that they see together, where a row sees more values than there are rows."""
FEWER = 1.5
"""Rows for each value that one of them sees, below which the rows themselves are kept instead of their moments: each
half of the samples then has fewer rows than a row has values, and is solved for sooner in the space of the rows."""
CHUNK = 2**20
"""Values of the input that are held or multiplied at the same time; few enough for a cache."""


class Flow(NamedTuple):
    """What a node takes and is to give.

    Attributes:
        x: its input.
        y: what is wanted where its output goes, alone or together with what is added there; None where it is known.
        added: what is added; None for nothing.
    """

    x: Array
    y: Array | None
    added: Array | None = None


class Wanted(NamedTuple):
    """What is wanted of a node on a feed, at the positions that are drawn.

    Attributes:
        shape: of the whole output, (batch, groups * out, *spatial).
        rows: (rows, groups, out).
    """

    shape: tuple[int, ...]
    rows: Array


class Drawn(NamedTuple):
    """What is drawn from a feed.

    Attributes:
        kind: what to keep of the rows.
        stage: the layer with explicit pads.
        x: its input.
        positions: numbers of output positions, (windows, positions of one).
        half: of the samples that each window is in, 0 or 1.
        wanted: (rows, groups, out).
        added: the part of it that does not come from the node; None for nothing.
    """

    kind: type[Moments] | type[Samples]
    stage: Stage
    x: Array
    positions: NDArray[np.int64]
    half: NDArray[np.int64]
    wanted: Array
    added: Array | None


class Flows(Protocol):
    """Where the inputs of nodes come from, and what they are to give."""

    def target(self, found: Found) -> str:
        """The name of the value that a node is to give, alone or together with what is added there."""
        ...

    def rows(self, found: Found, *, known: bool) -> Iterator[Flow]:
        """What a node takes and is to give, as the model has it, for one feed after another, as many as are asked for.

        Args:
            found: the node.
            known: whether what it is to give is, and can be left out.
        """
        ...


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a node themselves, those of a window one after another.

    Attributes:
        stage: the layer without pads that sees the parts.
        size: rows of a window.
        parts: of the input, (parts, groups * in, *reach), as `patches.cut` gives them; in single precision at least.
        wanted: (groups, rows, out).
        added: the part of it that does not come from the node, (groups, rows, out).
        half: of the samples that each row is in, 0 or 1.
    """

    stage: Stage
    size: int
    parts: Array
    wanted: Array
    added: Array
    half: NDArray[np.int64]

    def outputs(self, weight: Array) -> Iterator[tuple[slice, Array, Array]]:
        """Which rows, what they see, and what a weight without bias and what is added give there, (groups, rows, out).

        Args:
            weight: of the layer of the parts, of all groups.
        """
        reach = self.parts.shape[2:]
        matrix = spread(self.stage, weight.astype(self.parts.dtype), reach).swapaxes(1, 2)
        for part, seen in self.blocks():
            added = self.added[:, part]
            yield part, seen, (seen @ matrix).reshape(added.shape) + added

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """Which rows, and the parts that they see, (groups, parts, in * reach); some whole windows at a time."""
        number, each = len(self.parts), self.wanted.shape[1] // len(self.parts)
        window = self.size // each
        step = max(1, CHUNK // (self.parts[0].size * window)) * window
        by_group = self.parts.reshape(number, self.stage.groups, -1).swapaxes(0, 1)
        for start in range(0, number, step):
            stop = min(start + step, number)
            yield slice(start * each, stop * each), by_group[:, start:stop]


def known_rows(job: Job, found: Found, source: Flows, most: int) -> tuple[Statistics, Statistics] | str:
    """What is known of a node's rows on two halves of the samples, or why there is nothing.

    Args:
        job: the run.
        found: the node; where others share its weight, the first of them, and their rows are taken as well.
        source: where its rows come from.
        most: rows that are taken.

    Raises:
        DataError: the model itself does not run on all samples.
    """
    reason = unread(job, found)
    if reason:
        return reason
    group = holders(job, found)
    try:
        first, *others = (_halves(job, one, source, -(-most // len(group))) for one in group)
    except FAILURES as error:
        job.require_runs()
        return first_line(error)
    for other in others:
        first = joined(first[0], other[0]), joined(first[1], other[1])
    return first


def seen_rows(job: Job, found: Found, source: Flows, window: tuple[int, ...], most: int) -> Rows | None:
    """Finite rows of a node, in whole windows; None where there are none.

    Args:
        job: the run.
        found: the node, without obstacles.
        source: where its rows come from.
        window: of how many positions along each axis one value is seen; empty where each is.
        most: windows that are taken.

    Raises:
        FAILURES: onnxruntime cannot run what they need.
    """
    kept: list[list[Array]] = []
    halves: list[NDArray[np.int64]] = []
    layer = found.site.stage
    for drawn in _drawn(job, found, source, most, window):
        y, windows = drawn.wanted, len(drawn.positions)
        added = np.zeros_like(y) if drawn.added is None else drawn.added
        layer, parts = cut(drawn.stage, drawn.x, window, drawn.positions)
        # Squares of half precision overflow above 255.
        all_ = [a.astype(np.promote_types(a.dtype, np.float32), copy=False) for a in (parts, y, added)]
        finite = np.flatnonzero(np.all([np.isfinite(a.reshape(windows, -1)).all(1) for a in all_], 0))
        kept.append([a.reshape(windows, -1, *a.shape[1:])[finite] for a in all_])
        halves.append(np.repeat(drawn.half[finite], math.prod(window)))
    parts, y, added = (a.reshape(-1, *a.shape[2:]) for a in map(np.concatenate, zip(*kept, strict=True)))
    if not len(y):
        return None
    return Rows(layer, math.prod(window), parts, y.swapaxes(0, 1), added.swapaxes(0, 1), np.concatenate(halves))


def _halves(job: Job, found: Found, source: Flows, most: int) -> tuple[Statistics, Statistics]:
    halves, left_out, own = list[Statistics](), 0, own_bias(found)
    for drawn in _drawn(job, found, source, most):
        stage, rows = drawn.stage, drawn.positions.ravel()
        halves = halves or [drawn.kind.none(stage) for _ in range(2)]
        y = drawn.wanted if drawn.added is None else drawn.wanted - drawn.added
        if own is not None:
            y = y - own.astype(y.dtype).reshape(y.shape[1:])
        order = np.argsort(rows)
        for half, known in enumerate(halves):
            for part in _chunks(stage, order[drawn.half[order] == half]):
                left_out += known.add(patches(stage, drawn.x, rows[part]), y[part])
    if left_out and found.label not in job.warned:
        first = NOT_FINITE not in job.warned
        job.warned.update((NOT_FINITE, found.label))
        more = "; -v tells of other nodes" if first else ""
        text = "%d positions of %s are not finite on the data and are left out%s."
        logger.log(logging.WARNING if first else logging.INFO, text, left_out, found.label, more)
    return halves[0], halves[1]


def _drawn(job: Job, found: Found, source: Flows, most: int, window: tuple[int, ...] = ()) -> Iterator[Drawn]:
    """What is drawn from one feed after another; what is wanted there is remembered, as far as it can be held.

    Args:
        job: the run.
        found: the node.
        source: where its rows come from.
        most: windows that are drawn in all.
        window: see `patches.draw`.
    """
    assert job.inputs is not None
    data, rng, before = job.inputs.fit, np.random.default_rng(job.settings.seed), 0
    half_of = turns(data.samples, 2, np.random.default_rng(job.settings.seed)) % 2
    kind: type[Moments] | type[Samples] = Samples
    limit = 0
    key = (found.label, source.target(found), most, window, data.samples)
    known, made, size = job.wanted.get(key) or [], list[Wanted](), 0
    for i, (feed, flow) in enumerate(zip(data.feeds, source.rows(found, known=bool(known)), strict=False)):
        x, y = found.seat.inputs(flow.x), None if flow.y is None else found.seat.outputs(flow.y)
        shape = known[i].shape if y is None else y.shape
        stage, positions, batch = found.site.stage, count(shape), data.batch(feed)
        if not stage.window.transposed:
            stage = replace(stage, window=stage.window.explicit(x.shape[2:]))
        if not limit:
            kind, limit = _kind(stage, window, min(most, positions // batch * data.samples // math.prod(window)))
        number = limit * batch // data.samples
        drawn = draw(shape, window, max(1, number), rng)
        half = half_of[before + drawn[:, 0] * batch // positions]
        if data.samples == 1:
            half = rng.integers(2, size=len(drawn))
        before += batch
        at = drawn.ravel()
        wanted = known[i] if y is None else Wanted(shape, outputs(stage, y, at))
        size += wanted.rows.nbytes
        made = [*made, wanted] if not known and job.wanted.fits(size) else []
        added = None if flow.added is None else outputs(stage, found.seat.outputs(flow.added), at)
        yield Drawn(kind, stage, x, drawn, half, wanted.rows, added)
    if len(made) == len(data.feeds):
        job.wanted.keep(key, made, size)


def _chunks(stage: Stage, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """So many rows at a time as may be held."""
    step = max(1, CHUNK // (stage.groups * stage.inp * stage.window.volume))
    return (rows[start : start + step] for start in range(0, len(rows), step))


def _kind(stage: Stage, window: tuple[int, ...], available: int) -> tuple[type[Moments] | type[Samples], int]:
    """What is kept of rows (they themselves, where that is the faster way), and of how many windows."""
    width, size = stage.inp * stage.window.volume, math.prod(window)
    rows = min(available * size, int(VALUES / (stage.groups * width)))
    if rows < width:
        return Samples, min(rows, WIDE_ROWS, int(WIDE_VALUES / (stage.groups * width))) // size
    most = (SEEN_VALUES if window else VALUES) / (stage.groups * width * size)
    return Samples if rows < FEWER * width else Moments, min(available, int(most))
