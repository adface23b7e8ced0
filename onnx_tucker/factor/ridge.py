"""How strongly the trained weight is to draw, by what halves of the data say of each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from onnx_tucker.factor.regression import Statistics
from onnx_tucker.types import Array

Value = TypeVar("Value")

RIDGES = (1e4, 1e3, 1e2, 10.0, 1.0, 1e-1, 1e-2)
"""How strongly the trained weight draws, of which `ridge` tries some.

Weaker ones make much of directions in which the inputs hardly vary. At 1e-5 a language model's weights became 200 times
as large: its outputs were .0081 off, for .0085 at 1e-2, but .98 with weights of eight bits, for .038.
"""

SUMS = 256
"""Sums of all outputs, with random signs, that are looked at in their place where they are more.

The sum over them of a square is that over all outputs in the mean (Hutchinson, "A Stochastic Estimator of the Trace of
the Influence Matrix", 1989), and those of two weights are off alike. Of 3,072 outputs it takes a tenth of the time.
"""


def ridge(
    one: Statistics,
    other: Statistics,
    weight: Array,
    *,
    bias: bool,
    groups: int = 1,
    among: Sequence[float] = RIDGES,
) -> float:
    """The ridge at which the best weight of all samples should predict others best.

    As weak as it helps, from the trained weight on. It is where a parabola through the losses at the best that is tried
    and at its neighbours, over their logarithms, is least.

    Args:
        one: what is known of some samples.
        other: of others.
        weight: the trained weight.
        bias: as in `Statistics.targets`.
        groups: of the layer.
        among: what is tried, from strong to weak.
    """
    losses: dict[float, float] = {}
    out = len(weight) // groups
    if out > SUMS:
        mixture = np.random.default_rng(0).choice([-1.0, 1.0], (SUMS, out))
        one, other = one.mixed(mixture), other.mixed(mixture)
        mixed = mixture @ weight.astype(np.float64).reshape(groups, out, -1)
        weight = mixed.reshape(groups * SUMS, *weight.shape[1:])

    def loss(value: float) -> float:
        weights = [half.targets(weight, value, bias=bias) for half in (one, other)]
        losses[value] = foreseen((one, other), weights, bias=bias)
        return losses[value]

    found, tried = best(among, loss), list(losses)
    i = tried.index(found)
    if not 0 < i < len(tried) - 1:
        return found
    before, least, after = (losses[value] for value in tried[i - 1 : i + 2])
    bend = before - 2 * least + after
    apart = math.log(tried[i + 1] / found)
    return found * math.exp(apart * (before - after) / (2 * bend)) if bend > 0 else found


def foreseen(halves: tuple[Statistics, Statistics], weights: Sequence[Sequence[Array]], *, bias: bool) -> float:
    """What a weight that is found from all samples should miss of others, up to a constant.

    What the weight of one half misses of the other half comes from a bias that both weights have, and from the variance
    of one, which is half the mean square of their difference. From twice the samples there is half the variance: a
    quarter of that square less.

    Args:
        halves: what is known of each.
        weights: what was found from each, for every group.
        bias: as in `Statistics.targets`.
    """
    apart = [a - b for a, b in zip(*weights, strict=True)]
    pairs = zip(halves, weights[::-1], strict=True)
    return sum(half.loss(others, bias=bias) - half.squares(apart, bias=bias) / 4 for half, others in pairs)


def agreement(one: Array, other: Array) -> float:
    """The factor, from 0 to 1, by which the joint estimate of both halves of the data predicts further data best.

    Args:
        one: the estimate of one half.
        other: that of the other half.

    Returns:
        2 r / (1 + r) with r = 2 a.b / (|a|^2 + |b|^2), or 0 if that is below. By r the estimate of one half predicts
        the other best; that of both errs half as much (the reliability of a test of twice the length: Spearman; Brown,
        British Journal of Psychology 3, 1910).
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
