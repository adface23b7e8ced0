"""Trains weights so that a network's values come close to those that a teacher has on the same inputs.

What is to be matched are the outputs, and on the way there the values behind the linear nodes that both models have:
with few samples the outputs alone are learnt by heart (Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015).
The teacher can say what any input should give, so inputs are varied: two are mixed (Zhang et al., "mixup: Beyond
Empirical Risk Minimization", ICLR 2018), moved along the axes behind the channels, and mirrored along the last.
Labels hold for inputs as they are, and are learnt of those.
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
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from onnx_tucker.extras.labels import Criterion, tensor
from onnx_tucker.extras.network import Network
from onnx_tucker.runtime.inputs import Batches, joined
from onnx_tucker.runtime.memory import keep
from onnx_tucker.runtime.session import Feed
from onnx_tucker.settings import Course

logger = logging.getLogger(__name__)

Values = Mapping[str, NDArray[Any]]
Teacher = Callable[[Feed], Values]
"""The values that are to be matched, by name, for an input."""

HIDDEN = 3.0
"""How much all values on the way count, relative to all outputs."""
MOVED = 8
"""Inputs are moved along an axis by at most one part in so many."""
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
STEPS = 8
"""Of an epoch, at least, if there are as many samples."""
LOOKS = 16
"""Inputs that the weights are chosen by; samples kept apart are varied where there are fewer, but not to be more than
there are to learn from."""
AVERAGED = 0.1
"""The share of the steps over which weights are averaged."""
ASTRAY = 1.2
"""The loss over the least so far at which training goes back to that, and on at `SLOWER` of the rate."""
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


class Lesson(NamedTuple):
    """What a step learns from: varied inputs, of which the teacher tells, and inputs as they are, with their labels."""

    varied: Feed
    plain: Feed
    labels: NDArray[Any] | None


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
        """Takes a step down a loss, at a share of the rate; the mean is of about so many steps."""
        for group, full in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = full * rate
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
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
    network, scales, exam = task.network, _scales(task, course), _exam(task, course)
    before = _examined(task, exam, scales)
    now, pupil = _Standing(0, course.epochs, _copied(network), before), _Pupil(task, course)
    steps = -(-task.fit.samples // _size(task, course))
    everything = joined(task.fit.feeds), np.concatenate(task.fit.labels) if task.fit.labels else None
    if state is not None and state.exists():
        now, pupil = _resumed(state, now, pupil)
    while (
        now.epoch < now.epochs and now.waited < PATIENCE * now.epochs and (now.epoch == 0 or time.perf_counter() < ends)
    ):
        started = time.perf_counter()
        rate, over = now.share * _rate(now.epochs, now.epoch), max(1, round(AVERAGED * now.epochs * steps))
        losses = [
            pupil.learn(_loss(task, lesson, scales), rate, over)
            for lesson in _epoch(task, course, now.epoch, everything)
        ]
        with pupil.at_its_mean():
            loss = _examined(task, exam, scales)
            if loss < now.least:
                now = replace(now, epoch=now.epoch + 1, best=_copied(network), least=loss, waited=0)
            else:
                now = replace(now, epoch=now.epoch + 1, waited=now.waited + 1)
        if now.epoch == 1:
            took, left = time.perf_counter() - started, ends - time.perf_counter()
            now = replace(now, epochs=min(course.epochs, 1 + max(0, int(left / max(took, 1e-9)))))
        if not loss <= ASTRAY * now.least:
            now = replace(now, share=now.share * SLOWER)
            _put(network, now.best)
            pupil = _Pupil(task, course)
        watch(now.epoch, now.epochs, float(np.mean(losses)), loss, _arrays(now.best))
        if state is not None:
            _save(state, {"standing": vars(now), "pupil": pupil.state()})
    if state is not None:
        _save(state, {"standing": vars(replace(now, epochs=now.epoch)), "pupil": None})
    return Trained(_arrays(now.best), before, now.least, now.epoch)


def _resumed(state: Path, now: _Standing, pupil: _Pupil) -> tuple[_Standing, _Pupil]:
    """How far an earlier run came; where that cannot be read, the beginning."""
    try:
        known = torch.load(state, weights_only=True, map_location=device())
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
    """Where torch computes: a GPU if it sees one, in single precision throughout, as onnxruntime does."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
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
    """The squared errors of values over their variances."""
    made = task.network.run(task.lead(feed), names)
    return [
        (one - torch.from_numpy(wanted[name]).to(one.device)).square().mean() / scales[name]
        for name, one in zip(names, made, strict=True)
    ]


def _graded(task: Task, criterion: Criterion, feed: Feed, labels: NDArray[Any]) -> Tensor:
    """The loss on labels."""
    [made] = task.network.run(task.lead(feed), [criterion.output])
    return criterion.loss(made, tensor(labels).to(made.device))


def _exam(task: Task, course: Course) -> list[Lesson]:
    """The samples kept apart, as they are, and varied where there are few of them."""
    rng = np.random.default_rng((course.seed, course.epochs))
    check = task.check
    plain = [Lesson(feed, feed, labels) for feed, labels in _pieces(check, course.batch, task)]
    most = min(LOOKS, task.fit.samples) if task.distilled and check.samples > 1 else 0
    more = max(0, most // check.samples - 1)
    return plain + [lesson._replace(varied=_mixed(lesson.plain, rng)) for _ in range(more) for lesson in plain]


def _examined(task: Task, exam: Sequence[Lesson], scales: Mapping[str, float]) -> float:
    """The mean loss."""
    counts = [task.check.batch(lesson.plain) for lesson in exam]
    with torch.no_grad():
        losses = [float(_loss(task, lesson, scales)) for lesson in exam]
    return float(np.average(losses, weights=counts))


def _scales(task: Task, course: Course) -> dict[str, float]:
    """The variances of the teacher's values over all samples."""
    sums: dict[str, NDArray[np.float64]] = {}
    for feed, _ in _pieces(task.fit, course.batch, task) if task.distilled else ():
        for name, array in task.teacher(feed).items():
            values = np.asarray(array, np.float64)
            seen = np.array([values.size, values.sum(), np.square(values).sum()])
            sums[name] = sums.get(name, np.zeros(3)) + seen
    scales = {}
    for name, (count, total, squares) in sums.items():
        variance = float(squares / count - (total / count) ** 2)
        scales[name] = variance if variance > TINY * squares / count else 1.0
    return scales


def _pieces(batches: Batches, size: int, task: Task) -> Iterator[tuple[Feed, NDArray[Any] | None]]:
    """Samples with their labels, in batches that are no larger than those of a step may be."""
    for index, feed in enumerate(batches.feeds):
        labels = batches.labels[index] if batches.labels else None
        if task.fixed or batches.samples == 1:
            yield feed, labels
            continue
        for start in range(0, batches.batch(feed), size):
            part = slice(start, start + size)
            yield {name: array[part] for name, array in feed.items()}, None if labels is None else labels[part]


def _size(task: Task, course: Course) -> int:
    """Samples of a step: no more than in a feed, which is as large as memory allows, or as the model takes it."""
    size = task.fit.batch(task.fit.feeds[0])
    return size if task.fixed else min(course.batch, size, max(1, task.fit.samples // STEPS))


def _mixed(batch: Feed, rng: np.random.Generator) -> Feed:
    """Samples varied among themselves."""
    order = rng.permutation(len(next(iter(batch.values()))))
    return _varied(batch, {name: array[order] for name, array in batch.items()}, rng)


def _epoch(task: Task, course: Course, epoch: int, everything: tuple[Feed, NDArray[Any] | None]) -> Iterator[Lesson]:
    """The samples in another order each time, in batches."""
    rng = np.random.default_rng((course.seed, epoch))
    (arrays, labels), fit = everything, task.fit
    if fit.samples == 1:
        yield Lesson(arrays, arrays, labels)
        return
    size = _size(task, course)
    order, others = rng.permutation(fit.samples), rng.permutation(fit.samples)
    for start in range(0, len(order), size):
        some, beside = order[start : start + size], others[start : start + size]
        batch = {name: array[some] for name, array in arrays.items()}
        varied = _varied(batch, {name: array[beside] for name, array in arrays.items()}, rng)
        yield Lesson(varied, batch, None if labels is None else labels[some])


def _varied(batch: Feed, others: Feed, rng: np.random.Generator) -> Feed:
    """Samples each mixed with another, moved and mirrored; what are no numbers with fractions stay as they are."""
    made = {}
    for name, array in batch.items():
        if array.dtype.kind != "f":
            made[name] = array
            continue
        part = rng.random((len(array), *[1] * (array.ndim - 1))).astype(array.dtype)
        mixed = part * array + (1 - part) * others[name]
        made[name] = np.stack([_moved(sample, rng) for sample in mixed]) if array.ndim > 2 else mixed
    return made


def _moved(sample: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    axes = range(1, sample.ndim)
    most = [sample.shape[axis] // MOVED for axis in axes]
    sample = np.roll(sample, [int(rng.integers(-far, far + 1)) for far in most], tuple(axes))
    return np.flip(sample, -1) if rng.random() < 0.5 else sample


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
