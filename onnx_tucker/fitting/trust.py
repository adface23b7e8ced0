"""How far data is trusted: whether there is enough of it, and what one half of a node's rows says of the other half."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.fit import Goal, fit
from onnx_tucker.factor.regression import Statistics
from onnx_tucker.factor.ridge import RIDGES, best, ridge
from onnx_tucker.graph.find import Found
from onnx_tucker.job import ROUGH_ROWS, Job
from onnx_tucker.planning.groups import eligible
from onnx_tucker.types import Candidate, Chain, Site

FEW, SHRINKS = 64, (None, 0.3, 0.9, 1.0)
"""Samples from which on a second moment is trusted, and the shares of the identity in it that are tried with fewer.

None is a share by the number of rows, and 1 leaves out what the data says.

From half as many on a chain may be fitted to what is seen behind an activation: of 10 poses of a docking network that
made .24 of the error .21, and .40 of that on others .51.

Where every node sees many positions of a sample, as those of segmentation do, a sample counts as one for each `ALIKE`
of them: a network of 64x64x64 voxels and a single scan errs less on another one if it is trusted (.095 for .115).

For a node that sees fewer positions than that they only say which directions count: its weight is not moved towards
what they suggest.
"""

ALIKE = 64
"""Positions of a sample that count as one, being neighbours."""

SPREAD = 2
"""Rows of each half from which on there is a spread about their mean, and a bias can take the mean.

A direction in which all outputs are alike is left to it: 8 clouds of trees, whose last matrix kept that one of four and
lost one that tells kinds apart, made .958 of accuracy .77 to .90, and now .955.
"""

LIGHT_MACS, ROUGH_SAMPLES = 2.5e10, 8
"""Multiplications that running the model on samples takes no time by; and samples of a rough fit at least."""


class Trust(NamedTuple):
    """How far the data of a node is trusted.

    Attributes:
        ridge: how strongly its trained weight draws.
        shrink: the share of the identity in the second moment of its inputs; None for what their number says.
        means: whether its bias takes what is changed in the mean.
    """

    ridge: float
    shrink: float | None
    means: bool

    def goals(self, site: Site, known: Statistics) -> list[Goal]:
        """What the weight of each group should be, by what is known of its rows."""
        targets = known.targets(site.read(), self.ridge, bias=self.means)
        return known.goals(targets, bias=self.means, shrink=self.shrink)


class Trusts:
    """How far data is trusted in all passes that are compared: as far as the first one finds.

    Args:
        first: what nodes become in that; what is remembered of it serves all comparisons that begin so.

    Attributes:
        key: what tells them from others.
    """

    def __init__(self, first: Mapping[str, Candidate]) -> None:
        self._first = first
        self.key = repr(sorted((label, str(candidate)) for label, candidate in first.items()))

    def of(self, job: Job, found: Found, candidate: Candidate, find: Callable[[], Trust], *, rough: bool) -> Trust:
        """How far the data of a node is trusted, by what is remembered or else by `find`, in rough passes or others."""
        key = job.planned_key("trust", self._first, found.label, candidate.method is None, rough)
        recalled = job.memory.recall(key)
        if recalled is not None:
            return Trust(*recalled.value)
        known = find()
        job.memory.remember(key, known)
        return known


def usable(job: Job) -> bool:
    """Whether there is data to fit to."""
    return job.session is not None and job.inputs is not None and job.inputs.kind == "data" and not job.inputs.blank


def few(job: Job) -> bool:
    """Whether there are so few samples that they may mislead."""
    return _fewer(job, FEW)


def scarce(job: Job) -> bool:
    """Whether there are so few samples that a fit to them says nothing of others."""
    return _fewer(job, FEW // 2)


def lighter(job: Job, found: Found) -> Job:
    """The run with fewer samples to fit a node to, if those suffice and running the model on all of them takes long."""
    assert job.inputs is not None
    enough = min(FEW, -(-ROUGH_ROWS // job.positions([found])))
    fit = job.inputs.fit.first(max(enough, ROUGH_SAMPLES, job.samples_for(LIGHT_MACS)))
    return replace(job, inputs=replace(job.inputs, fit=fit))


def _fewer(job: Job, samples: int) -> bool:
    if not usable(job) or job.inputs is None:
        return False
    return job.inputs.fit.samples * max(1, job.positions(eligible(job)) // ALIKE) < samples


def trusted(
    found: Found,
    candidate: Candidate,
    halves: tuple[Statistics, Statistics],
    ridges: Sequence[float] = RIDGES,
    *,
    means: bool,
    unsure: bool,
) -> Trust:
    """How far the data of a node is trusted: what each half of the samples predicts the other best with.

    Args:
        found: the node.
        candidate: what it becomes.
        halves: what is known of its rows.
        ridges: the pulls of its trained weight that are tried, from strong to weak.
        means: whether its bias may take what is changed in the mean.
        unsure: whether its second moment is in doubt even if there are several times as many rows as inputs.
    """
    site, stage, rows = found.site, found.site.stage, [half.rows for half in halves]
    enough, means = min(rows) >= FEW // 2, means and min(rows) >= SPREAD
    strength = ridge(*halves, site.read(), bias=means, groups=stage.groups, among=ridges) if enough else RIDGES[0]
    unsure |= sum(rows) < 4 * stage.inp * stage.window.volume
    if not unsure or candidate.method is None:
        return Trust(strength, None, means)
    targets = [half.targets(site.read(), strength, bias=means) for half in halves]

    def held_out(shrink: float | None) -> float:
        loss = 0.0
        for one, other, wanted in zip(halves, halves[::-1], targets, strict=True):
            weight = reconstruct(fitted(site, candidate, one.goals(wanted, bias=means, shrink=shrink), rounds=0))
            loss += other.loss(np.split(weight, stage.groups), bias=means)
        return loss

    return Trust(strength, best(SHRINKS, held_out), means)


def fitted(site: Site, candidate: Candidate, goals: Sequence[Goal], rounds: int) -> Chain:
    """The chain of a candidate that meets goals best; without a method, the weight that does."""
    if candidate.method is None:
        return Chain(candidate.stages, (np.concatenate([goal.target for goal in goals]).reshape(site.stage.shape),))
    return fit(METHODS[candidate.method], site.stage, candidate.ranks or (), goals, rounds)
