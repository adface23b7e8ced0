"""What a node may become: the error of its outputs over what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_tucker.factor import METHODS
from onnx_tucker.graph.find import Found
from onnx_tucker.planning.tuning import Option
from onnx_tucker.rank.policy import rounded_up
from onnx_tucker.rank.search import BLOCKS
from onnx_tucker.types import Ranks


@dataclass(frozen=True)
class Point:
    """One way to compute a node; no method keeps its weight.

    Attributes:
        costs: by the name of each quantity that counts.
        error: the square of the relative error of its output, or without data of its weight.
        method: name in `factor.METHODS`.
        ranks: one for each of the method's modes.
    """

    costs: Mapping[str, float]
    error: float
    method: str | None = None
    ranks: Ranks | None = None

    @property
    def recipe(self) -> tuple[str | None, Ranks | None]:
        """What tells it from other points of its curve, and its chain from others."""
        return self.method, self.ranks

    def beats(self, other: Point) -> bool:
        """Whether it is no worse in anything, and better in something."""
        cheaper = all(self.costs[quantity] <= cost for quantity, cost in other.costs.items())
        return cheaper and self.error <= other.error and (self.costs, self.error) != (other.costs, other.error)


@dataclass(frozen=True, eq=False)
class Curve:
    """The points of nodes that share a weight, the nodes as they are first.

    Attributes:
        group: the nodes.
        points: the ways to compute them.
        weight: how much their error counts.
        options: the forms of the points, where they are timed.
        kept: why the nodes stay as they are, where chains of them were left out.
    """

    group: list[Found]
    points: list[Point]
    weight: float = 1.0
    options: Sequence[Option] = ()
    kept: str = ""

    def filled(self, block: int) -> Curve:
        """The same with no ranks but those that fill blocks of channels, and smaller ones.

        Others take a convolution out of the layout of its neighbours, which may cost more time than they save.
        """
        return replace(self, points=[point for point in self.points if _fills(self.group[0], point, block)])


def undominated(points: Sequence[Point]) -> list[Point]:
    """The node as it is, and the points that save something and that no other beats, the cheapest first."""
    kept: list[Point] = []
    for point in sorted(points[1:], key=_cost_first):
        saves = any(cost < points[0].costs[quantity] for quantity, cost in point.costs.items())
        if saves and not any(other.beats(point) for other in (*kept, points[0])):
            kept.append(point)
    return [points[0], *kept]


def worthwhile(found: Found, points: Sequence[Point]) -> list[Point]:
    """The points that no other beats, and of those that fill blocks of channels those that no other such beats."""
    kept = undominated(points)
    for block in BLOCKS:
        filled = undominated([point for point in points if _fills(found, point, block)])
        kept += [point for point in filled if point not in kept]
    return [kept[0], *sorted(kept[1:], key=_cost_first)]


def _cost_first(point: Point) -> tuple[float, ...]:
    return (*point.costs.values(), point.error)


def _fills(found: Found, point: Point, block: int) -> bool:
    """Whether the ranks of a point fill blocks of channels, or are smaller than one."""
    if point.method is None or point.ranks is None or max(point.ranks) <= block:
        return True
    return rounded_up(found.site.stage, METHODS[point.method], point.ranks, block) == point.ranks
