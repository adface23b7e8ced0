"""Trains weights so that a network's values come close to those that a teacher has on the same inputs.

What is to be matched are the outputs, and on the way there the values behind the linear nodes that both models have:
with few samples the outputs alone are learnt by heart (Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015).
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_tucker.course import Course
from onnx_tucker.errors import ModelError
from onnx_tucker.extras.labels import Criterion, tensor
from onnx_tucker.extras.lessons import Lesson, Lessons
from onnx_tucker.extras.network import Network
from onnx_tucker.extras.pupil import Pupil, copied
from onnx_tucker.runtime.batches import Batches
from onnx_tucker.runtime.memory import keep
from onnx_tucker.runtime.session import Feed

logger = logging.getLogger(__name__)

Values = Mapping[str, NDArray[Any]]
Teacher = Callable[[Feed], Values]
"""The values that are to be matched, by name, for an input."""

HIDDEN = 10.0
"""How much all values on the way count, relative to all outputs.

A classifier that learns from 410 images misses .221 of its outputs on others with .3, .206 with 3, .197 with 10 and 30.
"""
TINY = 1e-12
"""The variance over the mean square up to which values count as all the same."""
WARM = 0.05
"""The share of the epochs in which the learning rate rises."""
AVERAGED = 0.1
"""The share of the steps over which weights are averaged."""
ASTRAY, STALLED = 1.2, 0.25
"""The loss over the least so far at which training goes back to that, and on at a lower rate; and the share of the
epochs after which it does too if they are no better than those before them, since it began or went back.

A transcriber of music whose loss the first alone left at .0164 comes to .0160 with both. That of a pitch tracker is
above the one at the start for 18 epochs of 60, on its way from .243 to .228: sooner would be too soon.
"""
SLOWER, LEAST_SHARE = 0.3, 0.1
"""The share of the rate then, and the least of that again where much was spoilt."""
SAVING = 0.1
"""The share of the time that keeping the state may take; it is not kept after every epoch where that takes more."""
PATIENCE = 0.75
"""The share of the epochs without a better one after which there are no more; while steps are large, few are."""


@dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Attributes:
        network: the student.
        teacher: says what it is to match.
        outputs: names of the model's outputs that are numbers.
        hidden: names of the values on the way there.
        fit: the samples that are trained on.
        check: the samples that tell how good it is.
        fixed: whether the model takes batches of one size only.
        lead: turns an input of the model into what the network takes, if it is a part of one.
        criterion: the loss on labels, if those of the samples count.
        distilled: whether the teacher counts.
        varied: whether inputs are varied.
    """

    network: Network
    teacher: Teacher
    outputs: Sequence[str]
    hidden: Sequence[str]
    fit: Batches
    check: Batches
    fixed: bool = False
    lead: Callable[[Feed], Feed] = lambda feed: feed
    criterion: Criterion | None = None
    distilled: bool = True
    varied: bool = True


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        weights: of the best epoch, by name; those from before where none was better.
        before: the loss on the samples kept apart.
        after: the same of the best epoch.
        epochs: how many there were.
    """

    weights: dict[str, NDArray[Any]]
    before: float
    after: float
    epochs: int


@dataclass(frozen=True)
class _Standing:
    """How far training is.

    Attributes:
        epoch: epochs done.
        epochs: epochs to do.
        best: the best weights.
        least: their loss.
        waited: epochs since.
        share: of the learning rate.
        lately: the least loss since training went back to the best weights, or began.
        stuck: epochs since that.
    """

    epoch: int
    epochs: int
    best: dict[str, Tensor]
    least: float
    waited: int = 0
    share: float = 1.0
    lately: float = math.inf
    stuck: int = 0

    def after(self, loss: float, network: Network) -> _Standing:
        """How far it is when an epoch has led to a loss."""
        now = replace(self, epoch=self.epoch + 1, waited=self.waited + 1, stuck=self.stuck + 1)
        if loss < self.lately:
            now = replace(now, lately=loss, stuck=0)
        return replace(now, best=copied(network), least=loss, waited=0) if loss < self.least else now

    def back(self, loss: float) -> _Standing:
        """How far it is when it goes back to the best weights, and on at a lower rate: steps spoil by its square."""
        spoilt = max(loss - self.least, self.least) if math.isfinite(loss) and self.least > 0 else math.inf
        slower = SLOWER * max(LEAST_SHARE, math.sqrt(self.least / spoilt))
        return replace(self, share=self.share * slower, lately=math.inf, stuck=0)

    def lost(self, loss: float) -> bool:
        """Whether training leads nowhere."""
        return not loss <= ASTRAY * self.least or self.stuck >= max(2, round(STALLED * self.epochs))


Watch = Callable[[int, int, float, float, Mapping[str, NDArray[Any]]], None]
"""Is told after each epoch how many were and are to be, its loss, that on samples kept apart, and the best weights."""


def train(task: Task, course: Course, watch: Watch, state: Path | None = None) -> Trained:
    """Trains a network's weights.

    Args:
        task: what on what.
        course: how.
        watch: is told of every epoch.
        state: file from which training goes on, and in which it is kept after epochs; None for nowhere.
    """
    ends = time.perf_counter() + 60 * course.minutes
    lessons = Lessons(task.fit, task.check, course, fixed=task.fixed, mixed=task.varied)
    network, scales, exam = task.network, _scales(task, lessons), lessons.exam()
    before = _examined(task, exam, scales)
    now, pupil = _Standing(0, course.epochs, copied(network), before), Pupil(network, course)
    if state is not None and state.exists():
        now, pupil = _resumed(state, now, pupil)
    keeper = _Keeper(state, pupil)
    while (
        now.epoch < now.epochs and now.waited < PATIENCE * now.epochs and (now.epoch == 0 or time.perf_counter() < ends)
    ):
        started = time.perf_counter()
        rate, over = now.share * _rate(now.epochs, now.epoch), max(1, round(AVERAGED * now.epochs * lessons.steps))
        losses = [pupil.learn(_loss(task, lesson, scales), rate, over) for lesson in lessons.epoch(now.epoch)]
        if not pupil.moved:
            logger.warning("No step of training can be taken, as no derivatives of the model are finite.")
            break
        with pupil.at_its_mean():
            loss = _examined(task, exam, scales)
            now = now.after(loss, network)
        if now.epoch == 1:
            took, left = time.perf_counter() - started, ends - time.perf_counter()
            took *= 1 + SAVING if state is not None else 1
            now = replace(now, epochs=min(course.epochs, 1 + max(0, int(left / max(took, 1e-9)))))
        if now.lost(loss):
            now = now.back(loss)
            pupil.back(now.best)
        watch(now.epoch, now.epochs, float(np.mean(losses)), loss, _arrays(now.best))
        keeper.keep(now)
    keeper.done(now)
    return Trained(_arrays(now.best), before, now.least, now.epoch)


class _Keeper:
    """Keeps how far training is, as often as that takes a tenth of the time at most.

    Args:
        state: the file; None for nowhere.
        pupil: what is trained.
    """

    def __init__(self, state: Path | None, pupil: Pupil) -> None:
        self._state, self._pupil, self._began, self._spent = state, pupil, time.perf_counter(), 0.0

    def keep(self, now: _Standing) -> None:
        """Keeps it, if there is time."""
        started = time.perf_counter()
        if self._state is None or self._spent > SAVING * (started - self._began):
            return
        _save(self._state, {"standing": vars(now), "pupil": self._pupil.state()})
        self._spent += time.perf_counter() - started

    def done(self, now: _Standing) -> None:
        """Keeps what came of it, from which there is nothing to go on."""
        if self._state is not None:
            _save(self._state, {"standing": vars(replace(now, epochs=now.epoch)), "pupil": None})


def rehearsed(task: Task, feed: Feed, labels: NDArray[Any] | None) -> None:
    """What a step computes, without taking it."""
    scales = dict.fromkeys((*task.outputs, *task.hidden), 1.0)
    _loss(task, Lesson(feed, feed, labels), scales).backward()  # type: ignore[no-untyped-call]
    for weight in task.network.weights.values():
        weight.grad = None
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _resumed(state: Path, now: _Standing, pupil: Pupil) -> tuple[_Standing, Pupil]:
    """How far an earlier run came; where that cannot be read, the beginning."""
    where = next(iter(now.best.values())).device
    try:
        known = torch.load(state, weights_only=True, map_location=where)
        then = _Standing(**known["standing"])
        if known["pupil"] is not None:
            pupil.load(known["pupil"])
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        logger.info("the state of an earlier run cannot be used: %s", error)
        return now, pupil
    return then, pupil


def _arrays(weights: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: weight.cpu().numpy() for name, weight in weights.items()}


def device() -> str:
    """Where torch computes: a GPU if it sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def settled(threads: int) -> Iterator[None]:
    """Has torch compute with so many threads, in single precision throughout, as onnxruntime does; then as before.

    Convolutions give the same on a GPU whenever they are run; other operators may add up in any order.
    """
    before, products = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cuda.matmul.allow_tf32 = products


def _rate(epochs: int, epoch: int) -> float:
    """The share of the learning rate in an epoch: it rises in the first ones, and falls as a cosine."""
    rising = min(1.0, (epoch + 1) / (1 + WARM * epochs))
    return rising * (1 + math.cos(math.pi * epoch / epochs)) / 2


def _loss(task: Task, lesson: Lesson, scales: Mapping[str, float]) -> Tensor:
    """Of the teacher the mean error of the outputs and, weighted, that of the others; and the loss on labels.

    Raises:
        ModelError: it does not follow from what is trained.
    """
    parts = []
    if task.distilled:
        errors = _errors(task, lesson.varied, [*task.outputs, *task.hidden], task.teacher(lesson.varied), scales)
        outputs, hidden = errors[: len(task.outputs)], errors[len(task.outputs) :]
        parts.append(torch.stack(outputs).mean())
        if hidden:
            parts.append(HIDDEN * torch.stack(hidden).mean())
    if task.criterion is not None and lesson.labels is not None:
        parts.append(_graded(task, task.criterion, lesson.plain, lesson.labels))
    loss = torch.stack(parts).sum()
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise ModelError("What is to be learnt does not follow from any of the weights that can be trained.")
    return loss


def _errors(task: Task, feed: Feed, names: Sequence[str], wanted: Values, scales: Mapping[str, float]) -> list[Tensor]:
    """The squared errors of values over their variances, where those wanted are finite."""
    errors = []
    for name, one in zip(names, task.network.run(task.lead(feed), names), strict=True):
        right = torch.from_numpy(wanted[name]).to(one.device)
        missed = torch.where(torch.isfinite(right), one - right, 0.0)
        errors.append(missed.square().mean() / scales[name])
    return errors


def _graded(task: Task, criterion: Criterion, feed: Feed, labels: NDArray[Any]) -> Tensor:
    """The loss on labels."""
    [made] = task.network.run(task.lead(feed), [criterion.output])
    return criterion.loss(made, tensor(labels).to(made.device))


def _examined(task: Task, exam: Sequence[tuple[Lesson, int]], scales: Mapping[str, float]) -> float:
    """The mean loss."""
    with torch.no_grad():
        losses = [float(_loss(task, lesson, scales)) for lesson, _ in exam]
    return float(np.average(losses, weights=[count for _, count in exam]))


def _scales(task: Task, lessons: Lessons) -> dict[str, float]:
    """The variances of the teacher's values over all samples, as far as they are finite."""
    sums: dict[str, NDArray[np.float64]] = {}
    for feed in lessons.plain() if task.distilled else ():
        for name, array in task.teacher(feed).items():
            values = np.asarray(array[np.isfinite(array)], np.float64)
            seen = np.array([values.size, values.sum(), np.square(values).sum()])
            sums[name] = sums.get(name, np.zeros(3)) + seen
    scales = {}
    for name, (count, total, squares) in sums.items():
        mean, square = np.array([total, squares]) / max(count, 1.0)
        variance = float(square - mean**2)
        scales[name] = variance if variance > TINY * square else square or 1.0
    return scales


def _save(path: Path, content: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    fault = keep(path, buffer.getvalue())
    if fault:
        logger.info("if it is interrupted, training begins anew: %s", fault)
