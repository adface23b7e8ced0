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

from onnx_tucker.extras.labels import Criterion, tensor
from onnx_tucker.extras.lessons import Lesson, Lessons
from onnx_tucker.extras.network import Network
from onnx_tucker.runtime.inputs import Batches
from onnx_tucker.runtime.memory import keep
from onnx_tucker.runtime.session import Feed
from onnx_tucker.settings import Course

logger = logging.getLogger(__name__)

Values = Mapping[str, NDArray[Any]]
Teacher = Callable[[Feed], Values]
"""The values that are to be matched, by name, for an input."""

HIDDEN = 3.0
"""How much all values on the way count, relative to all outputs."""
DECAY = 1e-4
"""Of AdamW."""
SMALL = 1e-3
"""The size that a weight counts as at least, for its steps."""
TINY = 1e-12
"""The variance over the mean square up to which values count as all the same."""
WIDE = 128
"""Inputs of a value from which on steps are smaller."""
WARM = 0.05
"""The share of the epochs in which the learning rate rises."""
AVERAGED = 0.1
"""The share of the steps over which weights are averaged."""
ASTRAY, STALLED = 1.2, 0.1
"""The loss over the least so far at which training goes back to that, and on at `SLOWER` of the rate; and the share of
the epochs without a better one after which it does. Of a text recogniser whose weights need a thirtieth of the rate the
first alone made nothing better, and both bring the loss from .1756 to .1700.
"""
SLOWER = 0.3
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
    """How far training is: epochs done and to do, the best weights, their loss, the epochs since, the rate's share."""

    epoch: int
    epochs: int
    best: dict[str, Tensor]
    least: float
    waited: int = 0
    share: float = 1.0


Watch = Callable[[int, int, float, float, Mapping[str, NDArray[Any]]], None]
"""Is told after each epoch how many were and are to be, its loss, that on samples kept apart, and the best weights."""


class _Pupil:
    """A network on its way: what takes its steps, and the mean of its last weights, which is better than any of them.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30(4), 1992.
    """

    def __init__(self, task: Task, course: Course) -> None:
        self._network = task.network
        self._optimiser = torch.optim.AdamW(_groups(task.network, course), weight_decay=DECAY)
        self._rates = [group["lr"] for group in self._optimiser.param_groups]
        self._mean, self._count = _copied(task.network), 0

    def learn(self, loss: Tensor, rate: float, over: int) -> float:
        """Takes a step down a loss, at a share of the rate; the mean is of about so many steps.

        None where it leads nowhere: values of the model that are not finite would make all weights so.
        """
        for group, full in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = full * rate
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        weights = self._network.weights.values()
        if not all(torch.isfinite(weight.grad).all() for weight in weights if weight.grad is not None):
            return float(loss.detach())
        self._optimiser.step()
        self._count += 1
        for name, weight in self._network.weights.items():
            self._mean[name].lerp_(weight.detach(), 1 / min(self._count, over))
        return float(loss.detach())

    @contextmanager
    def at_its_mean(self) -> Iterator[None]:
        """The network has the mean of its last weights."""
        last = _copied(self._network)
        _put(self._network, self._mean)
        try:
            yield
        finally:
            _put(self._network, last)

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        known = {"weights": _copied(self._network), "mean": self._mean, "count": self._count, "rates": self._rates}
        return {**known, "optimiser": self._optimiser.state_dict()}

    def load(self, known: dict[str, Any]) -> None:
        """Goes on from a state."""
        _put(self._network, known["weights"])
        self._mean, self._count, self._rates = known["mean"], known["count"], known["rates"]
        self._optimiser.load_state_dict(known["optimiser"])


def train(task: Task, course: Course, watch: Watch, state: Path | None = None) -> Trained:
    """Trains a network's weights.

    Args:
        task: what on what.
        course: how.
        watch: is told of every epoch.
        state: file from which training goes on, and in which it is kept after each epoch; None for nowhere.
    """
    ends = time.perf_counter() + 60 * course.minutes
    lessons = Lessons(task.fit, task.check, course, task.fixed)
    network, scales, exam = task.network, _scales(task, lessons), lessons.exam()
    before = _examined(task, exam, scales)
    now, pupil = _Standing(0, course.epochs, _copied(network), before), _Pupil(task, course)
    if state is not None and state.exists():
        now, pupil = _resumed(state, now, pupil)
    while (
        now.epoch < now.epochs and now.waited < PATIENCE * now.epochs and (now.epoch == 0 or time.perf_counter() < ends)
    ):
        started = time.perf_counter()
        rate, over = now.share * _rate(now.epochs, now.epoch), max(1, round(AVERAGED * now.epochs * lessons.steps))
        losses = [pupil.learn(_loss(task, lesson, scales), rate, over) for lesson in lessons.epoch(now.epoch)]
        with pupil.at_its_mean():
            loss = _examined(task, exam, scales)
            if loss < now.least:
                now = replace(now, epoch=now.epoch + 1, best=_copied(network), least=loss, waited=0)
            else:
                now = replace(now, epoch=now.epoch + 1, waited=now.waited + 1)
        if now.epoch == 1:
            took, left = time.perf_counter() - started, ends - time.perf_counter()
            now = replace(now, epochs=min(course.epochs, 1 + max(0, int(left / max(took, 1e-9)))))
        if not loss <= ASTRAY * now.least or _stalled(now):
            now = replace(now, share=now.share * SLOWER)
            _put(network, now.best)
            pupil = _Pupil(task, course)
        watch(now.epoch, now.epochs, float(np.mean(losses)), loss, _arrays(now.best))
        if state is not None:
            _save(state, {"standing": vars(now), "pupil": pupil.state()})
    if state is not None:
        _save(state, {"standing": vars(replace(now, epochs=now.epoch)), "pupil": None})
    return Trained(_arrays(now.best), before, now.least, now.epoch)


def _stalled(now: _Standing) -> bool:
    """Whether epochs have brought nothing for as long as `STALLED` says, or for as long again."""
    return now.waited > 0 and now.waited % max(2, round(STALLED * now.epochs)) == 0


def _resumed(state: Path, now: _Standing, pupil: _Pupil) -> tuple[_Standing, _Pupil]:
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
    """Where torch computes: a GPU if it sees one, in single precision throughout, as onnxruntime does.

    Convolutions give the same there whenever they are run; other operators may add up in any order.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return "cuda" if torch.cuda.is_available() else "cpu"


def _groups(network: Network, course: Course) -> list[dict[str, Any]]:
    """Each weight with a step in proportion to its own size, and smaller where many inputs go into a value.

    Steps of Adam are of the same size for all elements of a weight, and at first they all help each other, while its
    elements do not: a value changes with the number of its inputs, but is as large as the root of that (Yang et al.,
    "Tensor Programs V", NeurIPS 2021). Steps go with the size as Shazeer and Stern have it, "Adafactor: Adaptive
    Learning Rates with Sublinear Memory Cost", ICML 2018, section 8.
    """
    groups = []
    for weight in network.weights.values():
        size = max(float(weight.detach().square().mean().sqrt()), SMALL)
        wide = math.sqrt(WIDE / max(WIDE, _inputs(weight)))
        groups.append({"params": [weight], "lr": course.learning_rate * size * wide})
    return groups


def _inputs(weight: Tensor) -> int:
    """How many inputs go into a value, as far as the shape tells: those of products may lie either way."""
    if weight.ndim < 2:
        return 1
    return max(weight.shape) if weight.ndim == 2 else weight[0].numel()


def _rate(epochs: int, epoch: int) -> float:
    """The share of the learning rate in an epoch: it rises in the first ones, and falls as a cosine."""
    rising = min(1.0, (epoch + 1) / (1 + WARM * epochs))
    return rising * (1 + math.cos(math.pi * epoch / epochs)) / 2


def _loss(task: Task, lesson: Lesson, scales: Mapping[str, float]) -> Tensor:
    """Of the teacher the mean error of the outputs and, weighted, that of the others; and the loss on labels."""
    parts = []
    if task.distilled:
        errors = _errors(task, lesson.varied, [*task.outputs, *task.hidden], task.teacher(lesson.varied), scales)
        outputs, hidden = errors[: len(task.outputs)], errors[len(task.outputs) :]
        parts.append(torch.stack(outputs).mean())
        if hidden:
            parts.append(HIDDEN * torch.stack(hidden).mean())
    if task.criterion is not None and lesson.labels is not None:
        parts.append(_graded(task, task.criterion, lesson.plain, lesson.labels))
    return torch.stack(parts).sum()


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
        scales[name] = variance if variance > TINY * square else 1.0
    return scales


def _copied(network: Network) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.weights.items()}


def _put(network: Network, weights: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, weight in network.weights.items():
            weight.copy_(weights[name])


def _save(path: Path, content: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    keep(path, buffer.getvalue())
