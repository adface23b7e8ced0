"""Which option every node takes, seen over the whole model: layouts that neighbours share, and close calls."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnx

from onnx_tucker.graph.lower.frames import Frames
from onnx_tucker.graph.lower.layout import Layout, lay_out
from onnx_tucker.graph.nodes import Names
from onnx_tucker.job import Job
from onnx_tucker.planning.menu import WORTHWHILE, Menu
from onnx_tucker.planning.race import with_noise
from onnx_tucker.planning.tuning import Option, Tuner
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.types import Candidate

logger = logging.getLogger(__name__)

Picks = Mapping[str, Option]
"""The option of each group of nodes that share a weight, by the label of its first node, where it has any."""

BRIEF, SHARE = 5.0, 0.02
"""Milliseconds up to which a layer is one whose neighbours matter, and the share of all layers from which it does."""
CONTEST_SECONDS, CONTEST_TIGHT = 1.0, 0.01
"""Time spent at most on comparing whole models that differ in one group, and how narrow the intervals are to be."""


def arrange(job: Job, tuner: Tuner, menus: Sequence[Menu]) -> dict[str, Option]:
    """The option that each group takes, by the label of its first node; groups without options are left out."""
    return _contest(job, menus, laid_out(job, tuner, menus))


def laid_out(job: Job, tuner: Tuner, menus: Sequence[Menu]) -> dict[str, Option]:
    """The option that each group takes by the times of layers alone, with those of conversions between layouts."""
    framed = _on_frames(job, tuner, menus)
    return {m.label: pick for m in menus if (pick := m.pick(job.settings, on_frames=m.label in framed))}


def _on_frames(job: Job, tuner: Tuner, menus: Sequence[Menu]) -> set[str]:
    """Labels of the groups that are best on frames, with conversions between layouts in the sum: a local search.

    It starts from as much, and from as little, on frames as there can be, and moves one group at a time.
    """
    direct = {m.label: m.pick(job.settings, on_frames=False) for m in menus}
    frames = {m.label: m.pick(job.settings, on_frames=True) for m in menus}
    movable = [label for label, pick in frames.items() if pick]
    conversions = _Conversions(job, tuner)
    members = {m.label: {f.label for f in m.group} for m in menus}

    def cost(on: set[str]) -> float:
        labels = set[str]().union(*(members[label] for label in on))
        alone = sum(pick.ms for label in movable if (pick := (frames if label in on else direct)[label]))
        return alone + conversions.ms(lay_out(job.context, labels, Names(onnx.ModelProto())))

    best: set[str] = set()
    least = cost(best) if movable else 0.0
    for start in (set[str](), set(movable)):
        on, current, moved = start, cost(start) if start else least, True
        while moved:
            moved = False
            for label in movable:
                other = on ^ {label}
                changed = cost(other)
                if changed < current:
                    on, current, moved = other, changed, True
        if current * WORTHWHILE < least:
            best, least = on, current
    return best


class _Conversions:
    """What conversions between values and frames cost."""

    def __init__(self, job: Job, tuner: Tuner) -> None:
        self._job, self._tuner = job, tuner
        self._known: dict[str, tuple[float, float]] = {}

    def ms(self, layout: Layout) -> float:
        """Of all conversions of a layout together."""
        entered = sum(self._of(value, entry.frames)[0] for value, entry in layout.entered.items())
        return entered + sum(self._of(value, layout.made[value])[1] for value in layout.left)

    def _of(self, value: str, frames: Frames) -> tuple[float, float]:
        if value not in self._known:
            self._known[value] = self._tuner.conversion(self._job.context.shapes[value], frames)
        return self._known[value]


def _contest(job: Job, menus: Sequence[Menu], picks: dict[str, Option]) -> dict[str, Option]:
    """Lets the whole model decide between options that take about as long alone, one group at a time.

    What a short layer takes alone is not quite what it takes between its neighbours.
    """
    feed = job.timed_feed
    if feed is None or not job.settings.benchmark:
        return picks
    total = sum(pick.ms for pick in picks.values())
    for i, menu in enumerate(menus):
        job.progress("comparing forms within the model", i, len(menus))
        pick = picks.get(menu.label)
        if pick is None or not SHARE * total <= pick.ms <= BRIEF:
            continue
        trials = [picks, *({**picks, menu.label: rival} for rival in menu.rivals(pick, job.settings))]
        if len(trials) > 1:
            picks = trials[_fastest(job, menus, trials, feed)]
    job.progress("comparing forms within the model", len(menus), len(menus))
    return picks


def _fastest(job: Job, menus: Sequence[Menu], trials: Sequence[Picks], feed: Feed) -> int:
    """Index of the picks with which the whole model is surely faster than with the first, else 0."""
    try:
        models = [with_noise(job, becoming(menus, picks)) for picks in trials]
        timings = job.stopwatch.compare(models, feed, CONTEST_SECONDS, job.folder, CONTEST_TIGHT)
    except FAILURES as error:
        logger.info("forms are not compared within the model: %s", first_line(error))
        return 0
    surely = [timing.speedup_ci[0] for timing in timings]
    best = max(range(len(trials)), key=surely.__getitem__)
    return best if surely[best] > 1 else 0


def becoming(menus: Sequence[Menu], picks: Picks) -> dict[str, Candidate]:
    """What nodes become by the options that their groups take, by label, as far as they change."""
    taken = ((menu, picks.get(menu.label)) for menu in menus)
    return {f.label: pick.candidate for menu, pick in taken if pick and pick.candidate.changes for f in menu.group}
