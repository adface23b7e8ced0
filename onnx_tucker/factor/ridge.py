"""How strongly the trained weight is to draw, as one half of the data says of the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from onnx_tucker.factor.regression import Statistics
from onnx_tucker.types import Array

Value = TypeVar("Value")

RIDGES = (1e4, 1e3, 1e2, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""How strongly the trained weight draws, from which `ridge` chooses."""


def ridge(one: Statistics, other: Statistics, weight: Array, *, bias: bool, among: Sequence[float] = RIDGES) -> float:
    """The ridge at which the best weight of one half of the samples predicts those of the other half best.

    Args:
        one: what is known of some samples.
        other: of others.
        weight: the trained weight.
        bias: as in `Statistics.targets`.
        among: from which it is chosen, from strong to weak.
    """

    def loss(value: float) -> float:
        pairs = ((one, other), (other, one))
        return sum(b.loss(a.targets(weight, value, bias=bias), bias=bias) for a, b in pairs)

    return best(among, loss)  # as weak as it helps, from the trained weight on


def agreement(one: Array, other: Array) -> float:
    """The part of what both halves of the data say together at which it predicts further data best; from 0 to 1.

    Of what one half says it is the part r at which that predicts the other best. What both say errs half as much, which
    makes 2 r / (1 + r) of it (the reliability of a test of twice the length: Spearman; Brown, British Journal of
    Psychology 3, 1910).
    """
    sizes = float(one @ one + other @ other)
    part = max(2 * float(one @ other) / sizes, 0.0) if sizes else 0.0
    return 2 * part / (1 + part)


def best(values: Sequence[Value], loss: Callable[[Value], float]) -> Value:
    """The one of least loss, of those up to the first that is worse than the one before it."""
    found, least = values[0], loss(values[0])
    for value in values[1:]:
        now = loss(value)
        if not now <= least:
            break
        found, least = (value, now) if now < least else (found, least)
    return found
