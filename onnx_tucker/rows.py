"""The rows of a node: what its output positions see and are to give, read at positions drawn at random."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.factor.moments import Moments, Samples, Statistics
from onnx_tucker.factor.patches import count, outputs, patches
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.lower.layout import is_main
from onnx_tucker.job import Job
from onnx_tucker.menu import members
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.types import Array, Stage

logger = logging.getLogger(__name__)

VALUES = 5e7
"""The values that the rows of a node may see together."""
WIDE_ROWS, WIDE_VALUES = 4096, 2.5e7
"""The most rows, and their values, where they are kept, being fewer than the values that one of them sees."""
CHUNK = 2**22
"""Values of patches that are held at the same time."""


class Source(Protocol):
    """Where the inputs of nodes come from, and what they are to give."""

    def rows(self, found: Found) -> Iterator[tuple[Array, Array]]:
        """Input and wanted output of a node, as the model has them, for one feed after another."""
        ...


def known_rows(job: Job, found: Found, source: Source, most: int) -> tuple[Statistics, Statistics] | str:
    """What is known of a node's rows on two halves of the samples, or why there is nothing.

    Args:
        job: the run.
        found: the node.
        source: where its rows come from.
        most: rows that are taken.
    """
    reason = obstacle(job, found)
    if reason:
        return reason
    try:
        return _halves(job, found, source, most)
    except FAILURES as error:
        return first_line(error)


def _halves(job: Job, found: Found, source: Source, most: int) -> tuple[Statistics, Statistics]:
    assert job.inputs is not None
    stage, data = found.site.stage, job.inputs.fit
    rng, left_out, before = np.random.default_rng(job.settings.seed), 0, 0
    halves: list[Statistics] = []
    own = own_bias(job, found)
    for feed, values in zip(data.feeds, source.rows(found), strict=True):
        x, y = found.seat.inputs(values[0]), found.seat.outputs(values[1])
        if own is not None:
            y = y - own.astype(y.dtype).reshape(-1, *(1,) * (y.ndim - 2))
        window = stage.window if stage.window.transposed else stage.window.explicit(x.shape[2:])
        if not halves:
            kind, limit = _kind(stage, min(most, len(data.feeds) * count(y)))
            halves = [kind.none(stage) for _ in range(2)]
        rows = rng.permutation(count(y))[: max(1, limit // len(data.feeds))]
        batch = data.batch(feed)
        sample = before + rows * batch // count(y) if data.samples > 1 else rng.integers(2, size=len(rows))
        before += batch
        for half, known in enumerate(halves):
            left_out += _add(known, replace(stage, window=window), x, y, np.sort(rows[sample % 2 == half]))
    if left_out:
        logger.warning("%s: %d positions of the data are not finite and are left out.", found.place.label, left_out)
    return halves[0], halves[1]


def own_bias(job: Job, found: Found) -> Array | None:
    """What a node without obstacles adds to its output, (groups * out,), in float64; None where it adds nothing."""
    constant = job.context.constant(found.place, 2) if found.site.bias else None
    if constant is None:
        return None
    return np.broadcast_to(constant.read().astype(np.float64).ravel(), found.site.stage.groups * found.site.stage.out)


def _kind(stage: Stage, available: int) -> tuple[type[Moments] | type[Samples], int]:
    """What is kept of rows, and of how many."""
    width = stage.inp * stage.window.volume
    rows = min(available, int(VALUES / (stage.groups * width)))
    if rows >= width:
        return Moments, rows
    return Samples, min(WIDE_ROWS, available, int(WIDE_VALUES / (stage.groups * width)))


def _add(known: Statistics, stage: Stage, x: Array, y: Array, rows: NDArray[np.int64]) -> int:
    left_out, step = 0, max(1, CHUNK // (stage.groups * stage.inp * stage.window.volume))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        left_out += known.add(patches(stage, x, part), outputs(stage, y, part))
    return left_out


def obstacle(job: Job, found: Found) -> str:
    """Why a node cannot be fitted to data; empty where it can be."""
    site, window = found.site, found.site.stage.window
    if not is_main(found.place):
        return "it is in a body, or fused"
    if len(members(job, found)) > 1:
        return "its weight is that of several nodes"
    added = job.context.constant(found.place, 2) if site.bias else None
    if site.bias and (added is None or math.prod(added.shape[:-1]) != 1):
        return "what it adds is no constant vector"
    if site.scalings:
        return "it scales its output"
    if window.transposed and (window.auto_pad != "NOTSET" or window.output_shape):
        return "its pads depend on the size of the output"
    if site.stage.groups > 1 and not window.kernel:
        return "its weight is a batch of matrices"
    return ""
