"""How much of a cost that is counted goes with how much of one that can only be measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

AIMS, LAST, NEAR = 7, 2, 0.95
"""Measurements at most, those that are left when the least is tried, as nothing else was within the share, and the
share of what is allowed from which on one is near enough."""


@dataclass(frozen=True)
class Aimed(Generic[T]):
    """Something within a limit of what is counted.

    Attributes:
        what: the thing itself.
        used: what is counted of it.
        taken: what is measured.
    """

    what: T
    used: float
    taken: float


def aim(at: Callable[[float], Aimed[T] | None], between: tuple[float, float], share: float) -> list[Aimed[T]]:
    """Moves a limit of what is counted until what is measured is just within a share; all that was met on the way.

    Args:
        at: what there is within a limit; None where there is nothing.
        between: the least limit and the largest.
        share: of what is measured.
    """
    least, most = between
    low, high = (least, 0.0), (most, math.inf)  # limits, and what is measured there
    met: list[Aimed[T]] = []
    limit = most
    for step in range(AIMS):
        one = at(limit)
        if one is None and step == 0:
            break
        if one is None:  # so little goes only above other limits
            low, least = (limit, 0.0), limit
        else:
            repeated = any(one.what == other.what for other in met)
            met.append(one)
            within = one.taken <= share
            low, high = ((one.used, one.taken), high) if within else (low, (min(limit, one.used), one.taken))
            held = any(other.taken <= share for other in met)
            near = within and (one.taken >= NEAR * share or limit >= most)
            if near or (repeated and held) or (limit <= least and not held):
                break
            if not held:
                low = (low[0], _expected(low[0], [other for other in met if other.taken > share]))
            if not held and step == AIMS - LAST - 1:
                limit = least
                continue
        limit = _between(low, high, share * (1 + NEAR) / 2)
    return met


def _expected(used: float, met: Sequence[Aimed[T]]) -> float:
    """What should be measured at less than all that was met, by the line through the two that come closest to it.

    A part of what is measured may not depend on what is counted, so that the limit would creep if that were left out.
    """
    nearest = sorted({one.used: one.taken for one in met}.items())[:2]
    if len(nearest) < 2:
        return 0.0
    (x0, y0), (x1, y1) = nearest
    return max(0.0, y0 - (x0 - used) * (y1 - y0) / (x1 - x0))


def _between(low: tuple[float, float], high: tuple[float, float], aim: float) -> float:
    """The abscissa at which a line through two points has a value; never closer to either end than a tenth."""
    (x0, y0), (x1, y1) = low, high
    part = (aim - y0) / (y1 - y0) if y1 > y0 else 0.5
    return x0 + (x1 - x0) * min(max(part, 0.1), 0.9)
