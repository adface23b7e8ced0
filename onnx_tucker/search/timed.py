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


def timed(job: Job, tuner: Tuner, curve: Curve, quantities: Sequence[str]) -> Curve:
    """A curve with the times, in milliseconds, alone and without conversions between layouts, of some of its points.

    Of those that fill blocks of channels.

    Args:
        job: the run.
        tuner: measures.
        curve: its points have other costs.
        quantities: the costs to keep besides "time".
    """
    kept, *chains = curve.filled(BLOCKS[0]).points
    chains = _thinned(chains, TIMED // 2 if tuner.hurried else TIMED)
    stage = curve.group[0].site.stage
    made = [Candidate(p.method, p.ranks, METHODS[p.method or ""].stages(stage, p.ranks or ())) for p in chains]
    lower = job.settings.lower and not excluded(job.settings, curve.group)
    options = tuner.survey(curve.group, made, lower=lower)
    least: dict[object, float] = {}
    for option in options:
        recipe = option.candidate.method, option.candidate.ranks
        least[recipe] = min(least.get(recipe, math.inf), option.ms)

    def costing(point: Point) -> Point:
        ms = least.get((point.method, point.ranks), 0.0)
        return replace(point, costs={**{q: point.costs[q] for q in quantities}, "time": ms})

    known = [costing(p) for p in (kept, *chains) if p is kept or (p.method, p.ranks) in least]
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
    recipes = [(None, None), (point.method, point.ranks)]
    options = [o for o in curve.options if (o.candidate.method, o.candidate.ranks) in recipes]
    return Menu(curve.group, "", [o.candidate for o in options if o.candidate.method], options)
