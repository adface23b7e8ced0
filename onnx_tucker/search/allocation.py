"""Allocations: a point of the curve of each group of nodes, what it costs and loses, and the rules it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnx_tucker.rank.fixed import Full
from onnx_tucker.rank.given import Given
from onnx_tucker.rank.lagrange import choose
from onnx_tucker.rank.rules import Rule, Rules
from onnx_tucker.search.curve import Curve, Point

WHOLE = "as it is, it is worth more than what chains of it would save"
"""Why a node is kept that could be factorised."""

NOTHING = "no chain of it is known to save anything that counts"
"""Why one is kept of which nothing can be saved, or the shapes are not known."""

SLOW = "as it is, chains of it take more time than they are worth"
"""Why one is kept whose chains were left out for their time."""


class Allocation(tuple[tuple[Curve, Point], ...]):
    """A point of the curve of each group of nodes."""

    __slots__ = ()

    @property
    def recipes(self) -> object:
        """What tells allocations apart."""
        return tuple(point.recipe for _, point in self)

    @property
    def lost(self) -> float:
        """What nodes lose in sum, weighted."""
        return sum(curve.weight * point.error for curve, point in self)

    @property
    def used(self) -> float:
        """Milliseconds that the layers take alone, in sum."""
        return sum(point.costs["time"] for _, point in self)

    @property
    def rules(self) -> Rules:
        """The rules that it stands for."""
        rules: dict[str, Rule] = {}
        for curve, point in self:
            kept = curve.kept or (WHOLE if any(other.ranks for other in curve.points) else NOTHING)
            rule = Rule(Given(point.ranks), point.method) if point.ranks else Rule(Full(kept))
            rules |= {one.label: rule for one in curve.group}
        return Rules(rules)


def within(curves: Sequence[Curve], limits: Mapping[str, float]) -> Allocation | None:
    """The allocation of least weighted error within limits of cost, up to the gaps of the curves; None without one."""
    errors = [np.array([curve.weight * point.error for point in curve.points]) for curve in curves]
    costs = [np.array([[point.costs[q] for q in limits] for point in curve.points]) for curve in curves]
    picks = choose(errors, costs, np.array(list(limits.values())))
    if picks is None:
        return None
    return Allocation((curve, curve.points[i]) for curve, i in zip(curves, picks, strict=True))


def reach(curves: Sequence[Curve], quantity: str) -> tuple[float, float]:
    """What all curves cost together at least, and with all nodes as they are."""
    least = sum(min(point.costs[quantity] for point in curve.points) for curve in curves)
    return least, sum(curve.points[0].costs[quantity] for curve in curves)
