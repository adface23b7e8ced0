"""Ranks for a budget: how much each node may lose so that the model loses least.

Every node has a curve of error over cost, of all methods at many ranks. With data the errors are those of its outputs,
times how much the model's outputs feel them, both measured; without, those of its weight. One price of cost, the same
for all nodes, picks a point on every curve (Lagrange), and what is left of the budget goes to where it helps most.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tucker import calibrate
from onnx_tucker.cost import FLOPS, chain_cost
from onnx_tucker.errors import PromiseError
from onnx_tucker.factor import METHODS, Method, Spectra, reconstruct
from onnx_tucker.factor.fit import Goal, fit
from onnx_tucker.factor.unfold import lost_share
from onnx_tucker.factor.weighted import Weighted
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.splice import splice, store
from onnx_tucker.job import Job
from onnx_tucker.menu import excluded, members, sharing
from onnx_tucker.rank import Rule, Rules
from onnx_tucker.rank.budget import Budget
from onnx_tucker.rank.fixed import Full
from onnx_tucker.rank.given import Given
from onnx_tucker.runtime.fidelity import relative_l2
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.types import Array, Candidate, Chain, Ranks, Skip

logger = logging.getLogger(__name__)

LEVELS = 32
"""Points of a curve for each method."""
LOSSES = (1e-5, 0.8)
"""Shares of the energy that the modes of a method with several may lose."""
PROBED = 0.25
"""The relative error of a node's output at which it is tried what that does to the model's outputs."""


@dataclass(frozen=True)
class Point:
    """One way to compute a node: what it costs, and the square of its relative error; no method keeps the node."""

    cost: float
    error: float
    method: str | None = None
    ranks: Ranks | None = None


@dataclass(frozen=True, eq=False)
class Curve:
    """The points of nodes that share a weight, and how much their error counts."""

    group: list[Found]
    points: list[Point]
    weight: float = 1.0

    def loss(self, point: Point, price: float) -> float:
        """Weighted error and cost in one, at a price of cost."""
        return self.weight * point.error + price * point.cost


def allocate(job: Job, budget: Budget) -> Rules:
    """The method and ranks of every node.

    Raises:
        PromiseError: the budget cannot be reached.
    """
    groups = [group for group in sharing(job).values() if not isinstance(group[0].reading.found, Skip)]
    expected = job.session.run(None, _probe(job)) if calibrate.usable(job) and job.session is not None else None
    known = calibrate.goals(job, [group[0] for group in groups]) if expected is not None else repeat(None)
    curves = []
    for i, (group, goals) in enumerate(zip(groups, known, strict=False)):
        job.progress("measuring errors of nodes", i, len(groups))
        curves.append(_curve(job, budget, group, goals, expected))
    job.progress("measuring errors of nodes", len(groups), len(groups))
    whole = sum(_whole(job, budget, [found]) for found in job.found)
    fixed = whole - sum(curve.points[0].cost for curve in curves)
    chosen = choose(curves, budget.share * whole - fixed)
    if chosen is None:
        least = fixed + sum(min(p.cost for p in curve.points) for curve in curves)
        raise PromiseError(
            f"The budget {budget} cannot be reached: at least the share {least / whole:.3g} would remain."
        )
    rules: dict[str, Rule] = {}
    for curve, point in zip(curves, chosen, strict=True):
        rule = Rule(Given(point.ranks), point.method) if point.ranks else Rule(Full())
        rules |= {found.place.label: rule for found in curve.group}
    return Rules(rules)


def choose(curves: Sequence[Curve], limit: float) -> list[Point] | None:
    """A point of each curve: least weighted error in sum within a limit of cost, up to the gaps of the curves.

    Everett, "Generalized Lagrange Multiplier Method", Operations Research 11, 1963. None where nothing is within it.
    """

    def at(price: float) -> list[Point]:
        return [min(c.points, key=partial(c.loss, price=price)) for c in curves]

    def total(points: Iterable[Point]) -> float:
        return sum(point.cost for point in points)

    cheapest = [min(c.points, key=lambda p: (p.cost, p.error)) for c in curves]
    if total(cheapest) > limit:
        return None
    best, low, high = cheapest, -60.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        points = at(10**middle)
        low, high = (low, middle) if total(points) <= limit else (middle, high)
        if total(points) <= limit:
            best = points
    return _improved(curves, best, limit)


def _improved(curves: Sequence[Curve], points: list[Point], limit: float) -> list[Point]:
    """Spends what is left of the budget, each time where a unit of it saves most error."""
    points = list(points)
    while True:
        left = limit - sum(point.cost for point in points)
        steps = [
            (curve.weight * (now.error - p.error) / max(p.cost - now.cost, 1e-9), i, p)
            for i, (curve, now) in enumerate(zip(curves, points, strict=True))
            for p in curve.points
            if p.error < now.error and p.cost - now.cost <= left
        ]
        if not steps:
            return points
        _, i, better = max(steps, key=lambda step: step[0])
        points[i] = better


def _curve(
    job: Job, budget: Budget, group: list[Found], goals: list[Goal] | None, expected: Sequence[Any] | None
) -> Curve:
    found = group[0]
    site, kept = found.site, Point(_whole(job, budget, group), 0.0)
    if excluded(job.settings, group):
        return Curve(group, [kept])
    weight = site.read()
    spectra = Weighted(weight, [goal.metric for goal in goals]) if goals else Spectra(weight, site.stage.groups)
    points = [kept]
    for method in METHODS.values():
        if method.applies(site.stage):
            points += [
                Point(_cost(job, budget, group, method, r), method.error_bound(spectra, r) ** 2, method.name, r)
                for r in _grid(method, found, spectra)
            ]
    points = _hull(points)
    if goals is None or expected is None:
        return Curve(group, points)
    return Curve(group, points, _sensitivity(job, found, goals, points, expected))


def _grid(method: Method, found: Found, spectra: Spectra) -> list[Ranks]:
    """Ranks of a method, from very small to nearly full; where it has several modes, all lose the same share."""
    sizes = method.dimensions(found.site.stage)
    if len(sizes) == 1:
        return sorted({(max(1, round(sizes[0] * (i + 1) / LEVELS)),) for i in range(LEVELS)} - {sizes})
    values = [spectra.of(mode) for mode in method.modes]
    losses = np.geomspace(*LOSSES, LEVELS)
    tried = [tuple(_rank(v, n, loss) for v, n in zip(values, sizes, strict=True)) for loss in losses]
    return sorted(set(tried) - {sizes})


def _rank(values: Array, full: int, loss: float) -> int:
    return next(rank for rank in range(1, full + 1) if rank == full or lost_share(values, rank) <= loss)


def _hull(points: list[Point]) -> list[Point]:
    """The node as it is, and the points that no other beats in cost and in error."""
    kept, least = [], np.inf
    for point in sorted(points[1:], key=lambda p: (p.cost, p.error)):
        if point.error < least and point.cost < points[0].cost:
            kept.append(point)
            least = point.error
    return [points[0], *kept]


def _probe(job: Job) -> dict[str, NDArray[Any]]:
    """The input on which it is tried how far errors carry."""
    assert job.inputs is not None
    return dict(job.inputs.fit.feeds[0])


def _sensitivity(
    job: Job, found: Found, goals: Sequence[Goal], points: Sequence[Point], expected: Sequence[Any]
) -> float:
    """How much of a node's squared relative error arrives at the model's outputs; tried at a moderate one."""
    if len(points) < 2:
        return 1.0
    point = min(points[1:], key=lambda p: abs(p.error - PROBED**2))
    method, ranks, stage = METHODS[point.method or ""], point.ranks or (), found.site.stage
    chain = fit(method, stage, ranks, goals)
    parts = np.split(reconstruct(chain), stage.groups)
    lost = sum(g.loss(part.reshape(g.target.shape)) for g, part in zip(goals, parts, strict=True))
    whole = sum(g.loss(np.zeros_like(g.target)) for g in goals)
    candidate = Candidate(method.name, ranks, chain.stages, 0.0)
    try:
        session = job.stopwatch.machine.session(_alone(job, found, candidate, chain), job.folder)
        other = session.run(None, _probe(job))
    except FAILURES as error:
        logger.info("%s: its effect on the outputs is not measured: %s", found.place.label, first_line(error))
        return 1.0
    pairs = zip(expected, other, strict=True)
    errors = [relative_l2(a, b) for a, b in pairs if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    arrived = float(np.mean([error**2 for error in errors if error is not None] or [0.0]))
    logger.info("%s: an error of %.3g becomes %.3g", found.place.label, (lost / whole) ** 0.5, arrived**0.5)
    return arrived * whole / lost if lost > 0 else 1.0


def _alone(job: Job, found: Found, candidate: Candidate, chain: Chain) -> bytes:
    """The model with one chain in it."""
    labels = members(job, found)
    stored = store(found, candidate, chain, Names(job.model))
    planned, weights = dict.fromkeys(labels, candidate), dict.fromkeys(labels, stored)
    return splice(job.model, planned, weights, job.found, job.context).SerializeToString(deterministic=True)


def _whole(job: Job, budget: Budget, group: Sequence[Found]) -> float:
    """What nodes cost as they are; of those that share a weight, its parameters once."""
    if budget.of == "params":
        return float(group[0].reading.params or 0) if group[0].group == group[0].place.label else 0.0
    convention = FLOPS[job.settings.flops]
    return sum(convention(f.reading.layer) for f in group if f.reading.layer)


def _cost(job: Job, budget: Budget, group: Sequence[Found], method: Method, ranks: Ranks) -> float:
    costs = [chain_cost(f.site, method.stages(f.site.stage, ranks), job.settings.flops) for f in group]
    if budget.of == "params":
        return float(costs[0].params)
    return float(sum(cost.flops or 0 for cost in costs))
