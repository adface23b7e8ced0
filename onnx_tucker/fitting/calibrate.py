"""What chains can be made from; those that need nothing but their own node: its weight, or what the data says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.fit import ROUNDS, Goal, missed
from onnx_tucker.factor.regression import Statistics
from onnx_tucker.factor.ridge import RIDGES
from onnx_tucker.fitting import statistics, trust
from onnx_tucker.fitting.obstacles import movable, obstacle, own_bias
from onnx_tucker.fitting.trust import Trust
from onnx_tucker.graph import behind
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import eligible, shared
from onnx_tucker.planning.ways import untouched
from onnx_tucker.types import Array, Basis, Candidate, Chain, Stage


def refits(job: Job, planned: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """The nodes that stay, whose weights may make up for what the chains of others lose; those left out never do."""
    if not trust.usable(job) or not any(candidate.method for candidate in planned.values()):
        return {}
    kept = [f for f in eligible(job) if f.label not in planned and not obstacle(job, f)]
    return {f.label: untouched(f) for f in kept}


def decomposed(weight: Array, stage: Stage, candidate: Candidate) -> Chain:
    """The chain of a candidate for a stage by its weight alone."""
    if candidate.method is None or candidate.ranks is None:
        return Chain(candidate.stages, (weight,))
    return METHODS[candidate.method].chain(weight, stage, candidate.ranks)


@dataclass(frozen=True, eq=False)
class Half:
    """What the weight of a node does on half of the original's inputs.

    Attributes:
        rows: what is known of those.
        goals: of each group, if a chain is fitted to them.
        bias: whether the node has a bias to take the means.
    """

    rows: Statistics
    goals: list[Goal]
    bias: bool

    def missed(self, weight: Array) -> float:
        """The squared relative error of the outputs of a weight (groups * out, ...) on them."""
        pairs = zip(np.split(weight, len(self.goals)), self.goals, strict=True)
        lost = self._squares([part.reshape(goal.target.shape) - goal.target for part, goal in pairs])
        return lost / self._whole if self._whole > 0 else 0.0

    @cached_property
    def _whole(self) -> float:
        return self._squares([goal.target for goal in self.goals])

    def _squares(self, weights: Sequence[Array]) -> float:
        felt_ = [goal.feel(weight) for goal, weight in zip(self.goals, weights, strict=True)]
        return self.rows.squares(felt_, bias=self.bias)


class Goals(NamedTuple):
    """What the weight of a node does on the original's inputs.

    Attributes:
        whole: on all of them, of each group.
        halves: on those of each half of the samples; empty where that is not known.
    """

    whole: list[Goal]
    halves: Sequence[Half]

    def missed(self, weight: Array) -> float:
        """The squared relative error of the outputs of a weight (groups * out, ...) on all of them."""
        if self.halves:
            return float(np.mean([half.missed(weight) for half in self.halves]))
        return missed(self.whole, weight)


def goals(job: Job, leaders: Sequence[Found]) -> Iterator[Goals | None]:
    """What the weights of nodes do on the original's inputs; None where that is not known.

    Args:
        job: the run, with data or statistics.
        leaders: nodes in the order of the graph.

    Raises:
        DataError: see `statistics.of_model`.
    """
    for found, known in zip(leaders, statistics.of_model(job, leaders, rough=True), strict=True):
        if known is None:
            yield None
            continue
        stage = found.site.stage
        weights = np.split(found.site.read().astype(np.float64), stage.groups)  # which give what the original gives
        targets = [weight.reshape(stage.out, stage.inp, -1) for weight in weights]
        bias = movable(job, found)
        halves = known.halves if all(half.rows >= trust.SPREAD for half in known.halves) else ()
        whole, *parts = (felt(job, found, rows.goals(targets, bias=bias)) for rows in (known.whole, *halves))
        yield Goals(whole, [Half(rows, part, bias) for rows, part in zip(halves, parts, strict=True)])


def felt(job: Job, found: Found, goals: Sequence[Goal]) -> list[Goal]:
    """Goals of a node's groups with how much errors of its outputs count, if that is known, and of no other node."""
    known = job.influences.of(found) if job.influences is not None and not shared(job, found) else None
    return list(goals) if known is None else [replace(g, influence=part) for g, part in zip(goals, known, strict=True)]


def alone(job: Job, leaders: Sequence[Found], planned: Mapping[str, Candidate]) -> Iterator[Chain]:
    """Chains that are each fitted to what the original gives their node, where that is known.

    Args:
        job: the run, with statistics.
        leaders: nodes in the order of the graph.
        planned: what nodes become, by label.
    """
    for found, known in zip(leaders, statistics.of_model(job, leaders), strict=True):
        candidate = planned[found.label]
        if known is None or candidate.method is None:
            yield decomposed(found.site.read(), found.site.stage, candidate)
            continue
        rows = known.whole
        means = movable(job, found) and rows.rows >= 2 * trust.SPREAD
        chain = trust.fitted(found.site, candidate, Trust(RIDGES[0], None, means).goals(found.site, rows), ROUNDS)
        bias = own_bias(found) if means else None
        yield chain if bias is None else replace(chain, bias=bias + rows.bias(reconstruct(chain)))


def bases(job: Job, planned: Mapping[str, Candidate]) -> list[Basis]:
    """What the chains of nodes can be made from."""
    chains = [f for f in job.found if f.label in planned and planned[f.label].method]
    if not chains or not trust.usable(job):
        return ["weights"]
    chains = [f for f in chains if not shared(job, f)]  # nothing behind others is looked at
    found: list[Basis] = ["weights", "outputs"]
    influential = job.influences is not None and any(job.influences.of(f) is not None for f in chains)
    if influential:
        found.append("influence")
    if trust.scarce(job):
        return found
    view = job.view
    summed = view.sums()
    behind_ = any(
        behind.sight(view, value, f.axis) for f in chains for value in {f.output, summed.get(f.output, (f.output,))[0]}
    )
    if behind_:
        found.append("activations")
    if behind_ and influential:
        found += ["influence, activations", "influence on activations"]
    return found
