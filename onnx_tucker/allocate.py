"""Ranks for a budget: how much each node may lose so that the model loses least.

One price of cost, the same for all nodes, picks a point on the curve of each (Lagrange), and what is left of the budget
goes to where it helps most. How errors of nodes add up to one of the model is not known. With data, allocations by
several laws are carried out roughly, with few samples also one that leaves them out of it, and the one whose model
comes closest to the original is taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from onnx_tucker import calibrate
from onnx_tucker.curves import Curve, Point, curves, whole
from onnx_tucker.errors import PromiseError
from onnx_tucker.factor import METHODS
from onnx_tucker.factorise import factorise
from onnx_tucker.job import Job
from onnx_tucker.menu import sharing
from onnx_tucker.rank import Rule, Rules
from onnx_tucker.rank.budget import Budget
from onnx_tucker.rank.fixed import Full
from onnx_tucker.rank.given import Given
from onnx_tucker.trial import error
from onnx_tucker.types import Candidate, Skip

logger = logging.getLogger(__name__)

POWERS = (0.0, 0.5, 1.0)
"""How far it counts in an allocation what a node's error alone does to the model's outputs."""
MOST = 0.999
"""The largest share of a node's output that counts as lost."""


def allocate(job: Job, budget: Budget) -> Rules:
    """The method and ranks of every node.

    Raises:
        PromiseError: the budget cannot be reached.
    """
    groups = [group for group in sharing(job).values() if not isinstance(group[0].reading.found, Skip)]
    found = []
    for i, curve in enumerate(curves(job, budget, groups)):
        job.progress("measuring errors of nodes", i + 1, len(groups))
        found.append(curve)
    total = sum(whole(job, budget, [found]) for found in job.found)
    fixed = total - sum(curve.points[0].cost for curve in found)
    chosen = _best(job, budget, found, budget.share * total - fixed)
    if chosen is None:
        least = fixed + sum(min(p.cost for p in curve.points) for curve in found)
        raise PromiseError(
            f"The budget {budget} cannot be reached: at least the share {least / total:.3g} would remain."
        )
    rules: dict[str, Rule] = {}
    for curve, point in zip(found, chosen, strict=True):
        rule = Rule(Given(point.ranks), point.method) if point.ranks else Rule(Full())
        rules |= {one.place.label: rule for one in curve.group}
    return Rules(rules)


def _best(job: Job, budget: Budget, found: Sequence[Curve], limit: float) -> list[Point] | None:
    """The allocation within a limit of cost whose model comes closest to the original; None where there is none."""
    laws = list(_laws(found)) if calibrate.usable(job) else [found]
    if calibrate.few(job):
        laws.append(list(curves(job, budget, [curve.group for curve in found], blind=True)))
    choices = [choose(law, limit) for law in laws]
    if choices[0] is None:
        return None
    allocations = {tuple((p.method, p.ranks) for p in points): points for points in choices if points}
    if len(allocations) == 1:
        return choices[0]
    trusts: calibrate.Trusts = {}
    errors = []
    for i, points in enumerate(allocations.values()):
        job.progress("trying allocations", i, len(allocations))
        errors.append(_error(job, found, points, trusts))
        logger.info("allocation %d: error %.4g", i, errors[-1])
    job.progress("trying allocations", len(allocations), len(allocations))
    return list(allocations.values())[int(np.argmin(errors))]


def _laws(found: Sequence[Curve]) -> Iterator[list[Curve]]:
    """The curves as the ways say in which errors of nodes may add up.

    Squared errors as they are, or as what they leave: a chain of layers that each keep the share 1 - e of the signal
    keeps the product of those. Each counts as much as it alone does to the model's outputs, half of that in decibels,
    or all alike.
    """
    for logarithmic in (False, True):
        for power in POWERS:
            yield [
                Curve(
                    curve.group,
                    [
                        replace(p, error=-math.log1p(-min(p.error, MOST)) if logarithmic else p.error)
                        for p in curve.points
                    ],
                    curve.weight**power,
                )
                for curve in found
            ]


def _error(job: Job, found: Sequence[Curve], points: Sequence[Point], trusts: calibrate.Trusts) -> float:
    """The error of the outputs of a model fitted roughly, or where there are few samples, made from its weights."""
    planned: dict[str, Candidate] = {}
    for curve, point in zip(found, points, strict=True):
        if point.method and point.ranks:
            stages = METHODS[point.method].stages(curve.group[0].site.stage, point.ranks)
            candidate = Candidate(point.method, point.ranks, stages, 0.0)
            planned |= dict.fromkeys((one.place.label for one in curve.group), candidate)
    models = [factorise(job, planned, "outputs", trusts, rough=True).model]
    if calibrate.few(job):
        models.append(factorise(job, planned, "weights", rough=True).model)
    return min(error(job, model) for model in models)


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
