"""How long the points of curves take in the forms that suit them best, and what nodes become by some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_tucker.factor import METHODS
from onnx_tucker.job import Job
from onnx_tucker.planning.arrange import becoming, laid_out
from onnx_tucker.planning.groups import excluded
from onnx_tucker.planning.menu import Menu
from onnx_tucker.planning.tuning import Tuner
from onnx_tucker.rank.search import BLOCKS
from onnx_tucker.search.curve import Curve, Point, undominated
from onnx_tucker.types import Candidate

TIMED = 12
"""Points of a curve, at most, that are timed, and half of them when the time for that is over."""
REFINED, NOTICED = 6, 0.05
"""Points that are timed besides, at most, around the one that a budget leads to, and how much of the time of all layers
those next to it have to be apart for that. A network of which one layer takes nearly all of the time was otherwise left
with .37 of it where .5 was allowed, and agreed with the original on 41 % of its inputs instead of 58 %.
"""


def timed(job: Job, tuner: Tuner, curve: Curve, quantities: Sequence[str]) -> Curve:
    """A curve with the times, in milliseconds, alone and without conversions between layouts, of some of its points.

    Of those that fill blocks of channels.

    Args:
        job: the run.
        tuner: measures.
        curve: its points have other costs.
        quantities: the costs to keep besides "time".
    """
    chains = _thinned(curve.filled(BLOCKS[0]).points[1:], TIMED // 2 if tuner.hurried else TIMED)
    return _measured(job, tuner, curve, chains, quantities)


def refined(
    job: Job, tuner: Tuner, curve: Curve, known: Curve, point: Point, whole: float, quantities: Sequence[str]
) -> Curve:
    """A timed curve with further points between those next to one of them.

    Args:
        job: the run.
        tuner: measures.
        curve: with all points.
        known: the same as `timed` made it.
        point: of that, but for what its error counts.
        whole: milliseconds that all layers take.
        quantities: the costs to keep besides "time".
    """
    ordered = sorted(known.points, key=lambda p: p.costs["time"])
    i = [other.recipe for other in ordered].index(point.recipe)
    cheaper, dearer = ordered[max(i - 1, 0)], ordered[min(i + 1, len(ordered) - 1)]
    if tuner.hurried or dearer.costs["time"] - cheaper.costs["time"] <= NOTICED * whole:
        return known
    between = [p for p in curve.filled(BLOCKS[0]).points[1:] if dearer.error < p.error < cheaper.error]
    chains = _thinned([p for p in between if p.recipe != point.recipe], REFINED)
    if not chains:
        return known
    further = _measured(job, tuner, curve, chains, quantities)
    if not further.options:
        return known
    before, now = (one.points[0].costs["time"] for one in (known, further))
    pace = before / now  # the machine may be slower than it was
    options = [replace(option, ms=pace * option.ms) for option in further.options if option.candidate.method]
    points = [replace(p, costs={**p.costs, "time": pace * p.costs["time"]}) for p in further.points[1:]]
    return replace(known, points=undominated([*known.points, *points]), options=[*known.options, *options])


def _measured(job: Job, tuner: Tuner, curve: Curve, chains: Sequence[Point], quantities: Sequence[str]) -> Curve:
    """The curve of some of its points, with their times."""
    kept, stage = curve.points[0], curve.group[0].site.stage
    made = [Candidate(p.method, p.ranks, METHODS[p.method or ""].stages(stage, p.ranks or ())) for p in chains]
    lower = job.settings.lower and not excluded(job.settings, curve.group)
    options = tuner.survey(curve.group, made, lower=lower)
    least: dict[object, float] = {}
    for option in options:
        recipe = option.candidate.method, option.candidate.ranks
        least[recipe] = min(least.get(recipe, math.inf), option.ms)

    def costing(point: Point) -> Point:
        ms = least.get(point.recipe, 0.0)
        return replace(point, costs={**{q: point.costs[q] for q in quantities}, "time": ms})

    known = [costing(p) for p in (kept, *chains) if p is kept or p.recipe in least]
    return replace(curve, points=undominated(known), options=options)


def _thinned(points: Sequence[Point], most: int) -> list[Point]:
    """Some of the points, whose errors are about as far apart as they can be, by their logarithms."""
    if len(points) <= most:
        return list(points)
    logs = np.log([max(point.error, 1e-30) for point in points])
    wanted = np.linspace(logs.max(), logs.min(), most)
    nearest = {int(np.argmin(np.abs(logs - log))) for log in wanted}
    return [points[i] for i in sorted(nearest)]


def arranged(
    job: Job, tuner: Tuner, chosen: Sequence[tuple[Curve, Point]], others: Sequence[Menu]
) -> dict[str, Candidate]:
    """What nodes become if points of timed curves are taken, by label, in the forms that take the least time.

    Args:
        job: the run.
        tuner: measures.
        chosen: the points.
        others: what nodes could become that cannot be factorised.
    """
    menus = [*(_menu(*pair) for pair in chosen), *others]
    return becoming(menus, laid_out(job, tuner, menus))


def _menu(curve: Curve, point: Point) -> Menu:
    """What nodes become if a point is taken: its chain in all forms, or their weight as it is in all forms."""
    recipes = [(None, None), point.recipe]
    options = [o for o in curve.options if (o.candidate.method, o.candidate.ranks) in recipes]
    return Menu(curve.group, "", [o.candidate for o in options if o.candidate.method], options)
