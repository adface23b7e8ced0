"""Training of the later weights alone, where there is no time for all of them.

The first nodes of a network often take most of the time. While their weights stay as they are, what they give for a
sample does too: it is computed once, as is what the original gives.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.course import Course
from onnx_tucker.graph.segment import probe
from onnx_tucker.job import Job
from onnx_tucker.runtime.batches import Batches, Cut, some
from onnx_tucker.runtime.session import FAILURES, Feed, first_line, run_named
from onnx_tucker.training.parts import single_precision, taken

if TYPE_CHECKING:
    from onnx_tucker.extras.training import Task, Teacher

logger = logging.getLogger(__name__)

FEW, ENOUGH = 5, 20
"""Epochs of all weights that there is no time for, where later ones are trained alone, and of those that there is.

A classifier of 410 images misses .434 of its outputs, .400 after 21 epochs of all weights, and .429 after 60 of later
ones. The thesis network misses .383; ten minutes are 3 epochs of all weights on 204 clips, which leave .327; 60 of
later ones take two, and leave .312.
"""
LOOK = 2
"""Samples that times are taken of."""
LONG = 1.0
"""Seconds from which on a call is timed the first time: what warms up takes little then."""
RUNNING = 0.5
"""The share of the time that running both models on the samples may take."""
HELD = 2**31
"""Bytes of values that are kept."""
TOLD = "original: "
"""Before the names of what the original gives, beside the values of the factorised model."""
CLOSE = 1e-4
"""How far off values of a sample may be that are computed with those of others, relative to the largest."""


class Extent(NamedTuple):
    """What is trained, and on what.

    Attributes:
        still: how many of the first weights stay as they are.
        share: of the samples that are used.
    """

    still: int = 0
    share: float = 1.0


class Later:
    """Training of later weights alone.

    Args:
        job: the run.
        model: the factorised one.
        whole: the training of all weights.
        weights: names of all, in the order of the nodes that take them.
        teacher_of: makes what gives values of the original.
    """

    def __init__(
        self,
        job: Job,
        model: onnx.ModelProto,
        whole: Task,
        weights: Sequence[str],
        teacher_of: Callable[[Sequence[str]], Teacher],
    ) -> None:
        self._job, self._model, self._whole, self._weights, self._teacher_of = job, model, whole, weights, teacher_of

    def choice(self, course: Course) -> Extent:
        """As many of the last weights as there is time to train; all where none can be trained alone.

        It tries steps of some of the ways on a few samples, which takes a part of the time.

        Args:
            course: how many epochs there are to be, and how long they may take.
        """
        ends = time.perf_counter() + 60 * course.minutes
        fit, check = self._whole.fit, self._whole.check
        at = _largest(fit)
        largest = Batches(fit.batch(fit.feeds[at]), fit.feeds[at : at + 1], fit.labels[at : at + 1], fit.along)
        if not fit.alike or (self._whole.fixed and largest.samples > 1):
            return Extent()
        size = min(LOOK, largest.samples, course.batch)
        few = largest.few(size)
        if min(FEW, course.epochs) * fit.samples * _step(self._whole, few) <= ends - time.perf_counter():
            return Extent()
        student = self._session(self._whole.outputs)
        both = _timed(lambda: (self._teacher(few.feeds[0]), run_named(student, few.feeds[0]))) / size
        samples = fit.samples + (check.samples if check is not fit else 0)
        share = max(0.0, min(1.0, RUNNING * (ends - time.perf_counter()) / (both * samples)))

        def affordable(still: int) -> bool | None:
            trial = self._alone(still, few, few)
            if trial is None:
                return None
            held = sum(array.nbytes for array in trial.fit.feeds[0].values()) / size * share * samples
            epochs = min(ENOUGH, course.epochs) * share * fit.samples * _step(trial, trial.fit)
            return held <= HELD and epochs <= (1 - RUNNING) * (ends - time.perf_counter())

        still = _first(affordable, 1, len(self._weights))
        return Extent() if still is None else Extent(still, share)

    def task(self, choice: Extent) -> Task:
        """What is chosen, with all values that it takes; the training of all weights where that cannot be done."""
        if not choice.still:
            return self._whole
        fit, check = self._whole.fit, self._whole.check
        few = fit.spread(max(1, round(choice.share * fit.samples)))  # the data may be sorted
        apart = few if check is fit else check.spread(max(1, round(choice.share * check.samples)))
        logger.info("%d of %d weights stay as they are", choice.still, len(self._weights))
        return self._alone(choice.still, few, apart) or self._whole

    def _alone(self, still: int, fit: Batches, check: Batches) -> Task | None:
        """The training of all but the first weights; None where what that takes is not there sample by sample."""
        whole, weights = self._whole, self._weights[still:]
        given = {value.name for value in self._model.graph.input}
        wanted = [*(whole.outputs if whole.distilled else ()), *([whole.criterion.output] if whole.criterion else ())]
        takes = taken(self._model, weights, wanted, self._single, given - fit.along)
        made = [name for name in takes if name not in given]
        if not made:
            return None
        session = self._session(made)

        def values(feed: Feed) -> Feed:
            """All that is kept of some samples."""
            found = {name: feed[name] for name in takes if name in fit.along} | run_named(session, feed)
            told = self._teacher(feed) if whole.distilled else {}
            return found | {TOLD + name: value for name, value in told.items()}

        first = fit.feeds[0]
        same = {name: first[name] for name in takes if name in given - fit.along}
        try:
            kept = self._kept(fit, values)
            apart = kept if check is fit else self._kept(check, values)
        except FAILURES as error:
            logger.info("what comes behind %d weights is not trained alone: %s", still, first_line(error))
            return None
        if kept is None or apart is None:
            return None
        return replace(
            whole,
            network=whole.network.only(weights),
            teacher=lambda feed: {name: _in_rows(feed[TOLD + name]) for name in whole.outputs},
            hidden=(),
            fit=kept,
            check=apart,
            lead=lambda feed: same | {name: _in_rows(feed[name]) for name in takes if name not in same},
            varied=False,
        )

    @cached_property
    def _teacher(self) -> Teacher:
        return self._teacher_of(self._whole.outputs)

    @cached_property
    def _single(self) -> set[str]:
        return single_precision(self._model)

    def _session(self, names: Sequence[str]) -> ort.InferenceSession:
        return self._job.open(probe(self._model, names))

    def _kept(self, batches: Batches, values: Callable[[Feed], Feed]) -> Batches | None:
        """Values of all samples in place of the inputs: of each, as many rows as it has; None where that varies."""
        arrays, feeds, start = dict[str, NDArray[Any]](), list[Feed](), 0
        at = _largest(batches)
        one, known = values(some(batches.feeds[at], batches.along, slice(1))), values(batches.feeds[at])
        if not _by_sample(one, known, batches.batch(batches.feeds[at])):
            return None
        for i, feed in enumerate(batches.feeds):
            if len(batches.feeds) > 1:
                self._job.progress("running both models", i, len(batches.feeds))
            end = start + batches.batch(feed)
            for name, value in (known if i == at else values(feed)).items():
                if name not in arrays:
                    rows = len(value) // (end - start)
                    arrays[name] = np.empty((batches.samples, rows, *value.shape[1:]), value.dtype)
                part = arrays[name][start:end]
                if value.size != part.size or value.shape[1:] != part.shape[2:]:
                    return None
                part[:] = value.reshape(part.shape)
            feeds.append(Cut(arrays, arrays.keys(), np.arange(start, end)))
            start = end
        return replace(batches, feeds=feeds, along=frozenset(arrays))


def _first(affordable: Callable[[int], bool | None], start: int, end: int) -> int | None:
    """The first number that is affordable, if all behind it are; None of those told is as good as unknown."""
    if start >= end:
        return None
    middle = (start + end) // 2
    told = affordable(middle)
    if told:
        before = _first(affordable, start, middle)
        return middle if before is None else before
    behind = _first(affordable, middle + 1, end)
    return _first(affordable, start, middle) if behind is None and told is None else behind


def _largest(batches: Batches) -> int:
    """Which feed holds most samples."""
    return max(range(len(batches.feeds)), key=lambda i: batches.batch(batches.feeds[i]))


def _by_sample(one: Feed, several: Feed, count: int) -> bool:
    """Whether values of several samples are those of each, one after another, as far as those of the first tell."""
    for name, value in one.items():
        rows, of = len(value) if value.ndim else 0, several[name]
        if of.shape != (count * rows, *value.shape[1:]) or not value.size:
            return False
        if value.dtype.kind != "f":
            alike = np.array_equal(of[:rows], value)
        else:
            alike = bool(np.abs(of[:rows] - value).max() <= CLOSE * np.abs(value).max())
        if not alike:
            return False
    return True


def _in_rows(values: NDArray[Any]) -> NDArray[Any]:
    """The rows of samples, one after another."""
    return values.reshape(-1, *values.shape[2:])


def _step(task: Task, batches: Batches) -> float:
    """Seconds that a step takes for each sample."""
    training: Any = importlib.import_module("onnx_tucker.extras.training")
    labels = batches.labels[0] if batches.labels else None
    return _timed(lambda: training.rehearsed(task, batches.feeds[0], labels)) / batches.samples


def _timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes when what it needs is warm."""
    took = 0.0
    for _ in range(2):
        began = time.perf_counter()
        call()
        took = time.perf_counter() - began
        if took > LONG:
            break
    return took
