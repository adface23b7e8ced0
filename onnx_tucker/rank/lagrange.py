"""One point of each of several curves of error over cost: the least error in sum within limits of cost.

One price for each cost, the same for all curves, picks a point of each (Everett, "Generalized Lagrange Multiplier
Method for Solving Problems of Optimum Allocation of Resources", Operations Research 11, 1963). Only points on a curve's
convex hull can be picked so; what is left within the limits then goes to where it helps most, and as long as that
lowers the sum, one point is moved up and another one down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Picks = list[int]

PRICES = (-30.0, 30.0)
"""Logarithms of the prices between which the right one is looked for."""
HALVINGS = 60
MIXES, SHIFT = 16, 2.0
"""How often the prices of several costs are set against each other anew, and how far that of the scarcest goes up."""
EXCHANGES = 200
"""Points that are moved in pairs at most."""
ROUNDING = 1e-12


def choose(errors: Sequence[Numbers], costs: Sequence[Numbers], limits: Numbers) -> Picks | None:
    """The index of a point of each curve; None where no price leads below the limits.

    Args:
        errors: of the points of each curve, (points,).
        costs: of the points of each curve, (points, quantities).
        limits: of the sum of each quantity, (quantities,).
    """
    if not errors:
        return [] if (limits >= 0).all() else None
    most = np.sum([cost.max(axis=0) for cost in costs], axis=0)
    scale = np.maximum(limits, ROUNDING * most) + (most == 0)  # a limit may be none at all
    shares = [cost / scale for cost in costs]
    mix = np.full(len(limits), 1 / len(limits))
    best: Picks | None = None
    least, improved = np.inf, dict[tuple[int, ...], Picks]()
    for _ in range(MIXES if len(limits) > 1 else 1):
        within, dearest = _priced(errors, [share @ mix for share in shares], costs, limits)
        if within is not None:
            start = tuple(within)
            if start not in improved:  # many mixes lead to the same
                improved[start] = _improved(errors, shares, within, limits / scale)
            within = improved[start]
            if best is None or _sum(errors, within) < least:
                best, least = within, _sum(errors, within)
        used = _used(shares, dearest if within is None else within)
        mix = mix * np.exp(SHIFT * (used / used.max() - 1)) if used.max() > 0 else mix
        mix /= mix.sum()
    return best


def _priced(
    errors: Sequence[Numbers], prices: Sequence[Numbers], costs: Sequence[Numbers], limits: Numbers
) -> tuple[Picks | None, Picks]:
    """The points at the lowest price that leads below the limits, if one does, and those at the highest of all."""

    def at(scale: float) -> Picks:
        return [int(np.argmin(e + scale * p)) for e, p in zip(errors, prices, strict=True)]

    # Of points that cost the same the one with the least error.
    dearest = [int(np.lexsort((e, p))[0]) for e, p in zip(errors, prices, strict=True)]
    if not _within(costs, dearest, limits):
        return None, dearest
    best, (low, high) = dearest, PRICES
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        picks = at(10**middle)
        within = _within(costs, picks, limits)
        low, high = (low, middle) if within else (middle, high)
        best = picks if within else best
    return best, dearest


def _improved(errors: Sequence[Numbers], shares: Sequence[Numbers], picks: Picks, limits: Numbers) -> Picks:
    """Spends what is left, each time where the scarcest share of it saves most error, and exchanges points."""
    curve = np.concatenate([np.full(len(e), i) for i, e in enumerate(errors)])
    index = np.concatenate([np.arange(len(e)) for e in errors])
    picks, exchanged = list(picks), 0
    while exchanged < EXCHANGES:
        left = limits * (1 + ROUNDING) - _used(shares, picks)
        saved = np.concatenate([e[k] - e for e, k in zip(errors, picks, strict=True)])
        more = np.concatenate([c - c[k] for c, k in zip(shares, picks, strict=True)])
        scarce = np.max(more, axis=1)
        fits = (saved > 0) & (more <= left).all(axis=1)
        if fits.any():
            up = int(np.argmax(np.where(fits, saved / np.maximum(scarce, ROUNDING), -np.inf)))
            picks[curve[up]] = int(index[up])
            continue
        pair = _exchange(curve, saved, more, left)
        if pair is None:
            break
        for moved in pair:
            picks[curve[moved]] = int(index[moved])
        exchanged += 1
    return picks


def _exchange(curve: NDArray[np.intp], saved: Numbers, more: Numbers, left: Numbers) -> tuple[int, int] | None:
    """The two moves, one that saves error and one of another curve that frees what it costs, that save most."""
    best, most = None, ROUNDING * max(float(np.abs(saved).max()), np.finfo(float).tiny)
    downs = np.flatnonzero((saved <= 0) & (more < 0).any(axis=1))
    downs = downs[np.argsort(-saved[downs], kind="stable")]  # those that cost least first
    for up in np.argsort(-saved, kind="stable"):
        worth = downs[: np.searchsorted(-saved[downs], saved[up] - most)]  # the others lead to less than the best
        if not len(worth):
            break
        fits = (curve[worth] != curve[up]) & (more[worth] <= left - more[up]).all(axis=1)
        if fits.any():
            down = worth[np.argmax(fits)]
            best, most = (int(up), int(down)), float(saved[up] + saved[down])
    return best


def _within(costs: Sequence[Numbers], picks: Picks, limits: Numbers) -> bool:
    return bool((_used(costs, picks) <= limits * (1 + ROUNDING)).all())


def _used(costs: Sequence[Numbers], picks: Picks) -> Numbers:
    return np.asarray(np.sum([cost[k] for cost, k in zip(costs, picks, strict=True)], axis=0), np.float64)


def _sum(errors: Sequence[Numbers], picks: Picks) -> float:
    return float(sum(e[k] for e, k in zip(errors, picks, strict=True)))
