"""Training of the later weights alone, where there is no time for all of them.

The first nodes of a network often take most of the time. While their weights stay as they are, what they give for a
sample does too: it is computed once, as is what the original gives.
"""

from __future__ import annotations

import importlib
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.graph.layer import probe
from onnx_tucker.job import Job
from onnx_tucker.parts import behind
from onnx_tucker.runtime.batches import Batches, Cut, some
from onnx_tucker.runtime.session import FAILURES, Feed, first_line, run_named

if TYPE_CHECKING:
    from onnx_tucker.extras.training import Task, Teacher

logger = logging.getLogger(__name__)

FEW, ENOUGH = 5, 20
"""Epochs of all weights that there is no time for, where later ones are trained alone, and of those that there is.

A classifier of 410 images misses .434 of its outputs, .400 after 21 epochs of all weights, and .429 after 60 of later
ones. The thesis network misses .383; ten minutes are 3 epochs of all weights on 204 clips, which leave .327; 60 of
later ones take two, and leave .312.
"""
LOOK = 4
"""Samples that times are taken of."""
RUNNING = 0.5
"""The share of the time that running both models on the samples may take."""
HELD = 2**31
"""Bytes of values that are kept."""
TOLD = "original: "
"""Before the names of what the original gives, beside the values of the factorised model."""
CLOSE = 1e-4
"""How far off values of a sample may be that are computed with those of others, relative to the largest."""


class Choice(NamedTuple):
    """What is trained, and on what.

    Attributes:
        still: how many of the first weights stay as they are.
        share: of the samples that are used.
    """

    still: int = 0
    share: float = 1.0


class Later:
    """Tasks that train later weights alone.

    Args:
        job: the run.
        model: the factorised one.
        task: the training of all weights.
        weights: names of all, in the order of the nodes that take them.
        taught: makes what gives the original's outputs alone.
    """

    def __init__(
        self, job: Job, model: onnx.ModelProto, task: Task, weights: Sequence[str], taught: Callable[[], Teacher]
    ) -> None:
        self._job, self._model, self._task, self._weights, self._taught = job, model, task, weights, taught
        self._given = {value.name for value in model.graph.input}

    def choice(self, seconds: float) -> Choice:
        """As many of the weights as there is time to train, the last ones; all where none can be trained alone.

        Args:
            seconds: what training may take.
        """
        task, size = self._task, self._task.fit.batch(self._task.fit.feeds[0])
        if not task.fit.alike or (task.fixed and size > 1):
            return Choice()
        few = task.fit.first(1)
        few = Batches(
            min(LOOK, size),
            [some(feed, few.along, slice(LOOK)) for feed in few.feeds],
            [labels[:LOOK] for labels in few.labels],
            few.along,
        )
        if FEW * task.fit.samples * _step(task, few) <= seconds:
            return Choice()
        student = self._session(task.outputs)
        both = _timed(lambda: (self._teacher(few.feeds[0]), run_named(student, few.feeds[0]))) / few.samples
        share = min(1.0, RUNNING * seconds / (both * (task.fit.samples + task.check.samples)))
        samples = share * task.fit.samples

        def affordable(still: int) -> bool:
            trial = self._of(still, few, few)
            if trial is None:
                return False
            held = sum(array.nbytes for array in trial.fit.feeds[0].values()) / few.samples * samples
            return held <= HELD and ENOUGH * samples * _step(trial, trial.fit) <= (1 - RUNNING) * seconds

        numbers = range(1, len(self._weights))
        found = bisect_left(numbers, True, key=affordable)
        return Choice(numbers[found], share) if found < len(numbers) else Choice()

    def task(self, choice: Choice) -> Task:
        """What is chosen, with all values that it takes; the training of all weights where that cannot be done."""
        if not choice.still:
            return self._task
        fit, check = self._task.fit, self._task.check
        few = fit.first(int(choice.share * fit.samples))
        apart = few if check is fit else check.first(int(choice.share * check.samples))
        logger.info("%d of %d weights stay as they are", choice.still, len(self._weights))
        return self._of(choice.still, few, apart) or self._task

    def _of(self, still: int, fit: Batches, check: Batches) -> Task | None:
        """The training of all but some weights; None where what that takes is not there sample by sample."""
        task = self._task
        takes = behind(self._model, self._weights[still:], task.outputs)
        made = [name for name in takes if name not in self._given]
        if not made:
            return None
        session, same = self._session(made), self._given - fit.along

        def values(feed: Feed) -> dict[str, NDArray[Any]]:
            """All that is kept of some samples."""
            taken = {name: feed[name] for name in takes if name in self._given - same} | run_named(session, feed)
            told = self._teacher(feed) if task.distilled else {}
            return taken | {TOLD + name: value for name, value in told.items()}

        first = fit.feeds[0]
        try:
            one, several = values(some(first, fit.along, slice(1))), values(first)
        except FAILURES as error:
            logger.info("what comes behind %d weights is not trained alone: %s", still, first_line(error))
            return None
        if not _by_sample(one, several, fit.batch(first)):
            return None
        always = {name: first[name] for name in takes if name in same}
        kept = self._kept(fit, values)
        return replace(
            task,
            teacher=lambda feed: {name: _joined(feed[TOLD + name]) for name in task.outputs},
            hidden=(),
            fit=kept,
            check=kept if check is fit else self._kept(check, values),
            lead=lambda feed: {n: always[n] if n in always else _joined(feed[n]) for n in takes},
            varied=False,
        )

    @cached_property
    def _teacher(self) -> Teacher:
        return self._taught()

    def _session(self, names: Sequence[str]) -> ort.InferenceSession:
        return self._job.stopwatch.machine.session(probe(self._model, names), self._job.folder)

    def _kept(self, batches: Batches, values: Callable[[Feed], Feed]) -> Batches:
        """Values of all samples in place of the inputs: of each sample, as many rows as it has."""
        arrays, feeds, start = dict[str, NDArray[Any]](), list[Feed](), 0
        for i, feed in enumerate(batches.feeds):
            if len(batches.feeds) > 1:
                self._job.progress("running both models", i, len(batches.feeds))
            end = start + batches.batch(feed)
            for name, value in values(feed).items():
                rows = value.reshape(end - start, -1, *value.shape[1:])
                if name not in arrays:
                    arrays[name] = np.empty((batches.samples, *rows.shape[1:]), rows.dtype)
                arrays[name][start:end] = rows
            feeds.append(Cut(arrays, arrays.keys(), np.arange(start, end)))
            start = end
        return replace(batches, feeds=feeds, along=frozenset(arrays))


def _by_sample(one: Feed, several: Feed, count: int) -> bool:
    """Whether values of several samples are those of each, one after another, as far as those of the first tell."""
    for name, value in one.items():
        rows, of = len(value) if value.ndim else 0, several[name]
        if of.shape != (count * rows, *value.shape[1:]) or not value.size:
            return False
        if not np.abs(of[:rows] - value).max() <= CLOSE * np.abs(value).max():
            return False
    return True


def _joined(rows: NDArray[Any]) -> NDArray[Any]:
    """The rows of samples, one after another."""
    return rows.reshape(-1, *rows.shape[2:])


def _step(task: Task, batches: Batches) -> float:
    """Seconds that a step takes for each sample."""
    training: Any = importlib.import_module("onnx_tucker.extras.training")
    labels = batches.labels[0] if batches.labels else None
    return _timed(lambda: training.rehearsed(task, batches.feeds[0], labels)) / batches.samples


def _timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes the second time."""
    call()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
