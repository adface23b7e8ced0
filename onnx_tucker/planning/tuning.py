"""Times the ways in which a node could be computed, alone, in layers of noise, and what conversions cost."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnx_tucker import forms
from onnx_tucker.forms import DIRECT, FORMS, Form
from onnx_tucker.graph import layer
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.layer import Borders
from onnx_tucker.graph.lower.frames import Frames
from onnx_tucker.job import Job
from onnx_tucker.planning.ways import alike, forms_of, untouched
from onnx_tucker.runtime.noise import NOISE_VALUES
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.runtime.timing import Timing
from onnx_tucker.types import Candidate

logger = logging.getLogger(__name__)

LAYER_SECONDS, SURVEY_SECONDS = 0.4, 1.0
"""Time spent at most on comparing one layer with what it could become, and with many chains."""
FRAME_FORMS, SURVEYED, HURRIED = 8, 4, 2
"""Candidates on frames that are timed, the best by estimate: of a node as it is, and again as many of its chains; of
each of many chains; and when the time for that is over.
"""
FINALISTS = 8
"""Of each kind, how many of the fastest are compared at length, if they are `CLOSE`; two in any case."""
CLOSE, FAR = 1.2, 1.6
"""By how much rough times may differ that could be the same, of long layers and of brief ones."""
BRIEF = 1.0
"""Milliseconds up to which a layer's time depends on what ran before it, so that rough times say little."""


@dataclass(frozen=True)
class Option:
    """A way to compute a node, and how long it takes alone; without conversions where it works on frames."""

    candidate: Candidate
    ms: float

    @property
    def kind(self) -> tuple[bool, bool]:
        """Whether it takes and makes frames, and whether it is factorised."""
        return FORMS[self.candidate.form].on_frames, self.candidate.method is not None


class Tuner:
    """Times candidates within the time that the user gives."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._end = job.stopwatch.spent + job.settings.tune_seconds
        self._compared: dict[tuple[str, Candidate], Timing] = {}
        self._last: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._noise: Feed = {}

    @property
    def hurried(self) -> bool:
        """Whether that time is over."""
        return self._job.stopwatch.spent >= self._end

    def options(self, group: Sequence[Found], chains: Sequence[Candidate], *, lower: bool) -> list[Option]:
        """Times of nodes that share a weight, as they are (the first) and as what they could become.

        Empty where they are not timed.

        Args:
            group: the nodes.
            chains: candidates in the node's own form.
            lower: whether other forms of them, and of the node as it is, are tried too.
        """
        same = untouched(group[0])
        framed = HURRIED if self.hurried else FRAME_FORMS
        lowered = [*self._lowered(group, [same], framed), *self._lowered(group, chains, framed)] if lower else []
        return self._in_turn(group, _finalists(self._rough(group, [same, *chains, *lowered])), LAYER_SECONDS)

    def survey(self, group: Sequence[Found], chains: Sequence[Candidate], *, lower: bool) -> list[Option]:
        """The same of many chains, each in few forms: of each the fastest with, and without, frames.

        A curve has to say which of its points are faster, so they are compared in turn, as rough times would not.
        """
        same = untouched(group[0])
        most = (HURRIED, HURRIED) if self.hurried else (FRAME_FORMS, SURVEYED)
        lowered = self._lowered(group, [same], most[0]) if lower else []
        lowered += [form for chain in chains for form in self._lowered(group, [chain], most[1])] if lower else []
        return self._in_turn(group, _first_of_each(self._rough(group, [same, *chains, *lowered])), SURVEY_SECONDS)

    def _in_turn(self, group: Sequence[Found], candidates: Sequence[Candidate], seconds: float) -> list[Option]:
        """Times of nodes that share a weight, measured in turn; empty where one of them is not timed."""
        measured = [self._compare(found, candidates, seconds) for found in group] if candidates else []
        if not measured or not all(measured):
            return []
        columns = zip(*measured, strict=True)
        return [Option(c, sum(timing.ms for timing in column)) for c, column in zip(candidates, columns, strict=True)]

    def _rough(self, group: Sequence[Found], candidates: Sequence[Candidate]) -> list[Option]:
        """Rough times of nodes that share a weight; empty where the first candidate is not timed."""
        rough = [self._sift(found, candidates) for found in group]
        if not all(rough):
            return []
        sums = [sum(column) for column in zip(*rough, strict=True)]
        if math.isinf(sums[0]):
            return []
        return [Option(c, ms) for c, ms in zip(candidates, sums, strict=True) if not math.isinf(ms)]

    def _lowered(self, group: Sequence[Found], chains: Sequence[Candidate], most: int) -> list[Candidate]:
        """Chains in other forms: on the plane, and as many of those on frames that promise most."""
        site, plane, framed = group[0].site, list[Candidate](), list[tuple[float, Candidate]]()
        for chain in chains:
            fitting = [set(forms_of(self._job.context, found, found.own(chain).stages)) for found in group]
            for form in set[Form].intersection(*fitting) - {DIRECT}:
                candidate = replace(chain, form=str(form))
                if not form.on_frames:
                    plane.append(candidate)
                elif alike(group) and site.input_shape is not None:
                    framed.append((forms.effort(chain.stages, site.input_shape, form), candidate))
        framed.sort(key=lambda pair: (pair[0], pair[1].form))
        return plane + [c for _, c in framed[:most]]

    def _sift(self, found: Found, candidates: Sequence[Candidate]) -> list[float]:
        """Rough milliseconds of each candidate in the place of a node; empty where it is not timed."""
        feed = self._feed(found)
        if not feed:
            return []
        return self._job.stopwatch.sift([self._model(found, c, layer.FRAMES_ONLY) for c in candidates], feed)

    def _compare(self, found: Found, candidates: Sequence[Candidate], seconds: float) -> list[Timing]:
        """Times of candidates in the place of a node, which are kept for those that need no conversions."""
        timings = self._timed(found, candidates, layer.FRAMES_ONLY, seconds)
        for candidate, timing in zip(candidates, timings, strict=bool(timings)):
            self._compared[found.label, candidate] = timing
        return timings

    def compare(self, found: Found, candidate: Candidate | None, borders: Borders) -> list[Timing]:
        """Times of a node as it is, and of what it becomes, with the conversions at its borders; empty if not timed."""
        wanted = [c for c in (untouched(found), candidate) if c]
        known = [self._compared.get((found.label, c)) for c in wanted if not FORMS[c.form].on_frames]
        if len(known) == len(wanted) and all(known):
            return [timing for timing in known if timing]
        return self._timed(found, wanted, borders, LAYER_SECONDS)

    def _timed(self, found: Found, candidates: Sequence[Candidate], borders: Borders, seconds: float) -> list[Timing]:
        feed = self._feed(found)
        if not feed:
            return []
        models = [self._model(found, c, borders) for c in candidates]
        try:
            return self._job.stopwatch.compare(models, feed, seconds)
        except FAILURES as error:
            logger.warning("%s is not timed: %s", found.label, first_line(error))
            return []

    def conversion(self, shape: tuple[int, ...], frames: Frames) -> tuple[float, float]:
        """Milliseconds that it takes to turn a value of a shape into frames, and back."""
        models = layer.noise_conversions(self._job.model, frames)
        enter, leave = self._job.stopwatch.sift(models, layer.noise_input(shape, np.dtype(np.float32)))
        return enter, leave

    def _model(self, found: Found, candidate: Candidate, borders: Borders) -> bytes:
        job = self._job
        if not candidate.changes:
            return layer.noise_original(job.model, found, job.context)
        return layer.noise_chain(job.model, found, job.context, candidate, borders)

    def _feed(self, found: Found) -> Feed:
        """Noise for a node, empty where it is not timed."""
        job = self._job
        shape = job.context.shapes.get(found.input) if found.site.input_shape else None
        if not job.settings.benchmark or shape is None or layer.largest(found, job.context) > NOISE_VALUES:
            return {}
        key = shape, found.site.dtype
        if key != self._last:
            self._last, self._noise = key, layer.noise_input(*key)
        return self._noise


def _first_of_each(options: Sequence[Option]) -> list[Candidate]:
    """The first, and of each method and ranks the fastest with, and without, frames."""
    fastest: dict[object, Option] = {}
    for option in sorted(options[1:], key=lambda o: o.ms):
        fastest.setdefault((option.kind, option.candidate.method, option.candidate.ranks), option)
    return [o.candidate for o in options if o is options[0] or o in fastest.values()]


def _finalists(options: Sequence[Option]) -> list[Candidate]:
    """The first, and of each kind the fastest, and the most accurate of those that are about as fast."""
    if not options:
        return []
    kinds: dict[tuple[bool, bool], list[Option]] = {}
    for option in sorted(options, key=lambda o: o.ms):
        kinds.setdefault(option.kind, []).append(option)
    kept = {options[0].candidate}
    for ordered in kinds.values():
        least = ordered[0].ms
        close = [o for o in ordered if o.ms <= (CLOSE if least > BRIEF else FAR) * least]
        kept.update(o.candidate for o in (*ordered[:2], *close[:FINALISTS]))
        kept.add(min(close, key=lambda o: o.candidate.predicted_error).candidate)
    return [o.candidate for o in options if o.candidate in kept]
