"""What a network in training learns from, and what it is examined on.

A teacher can say what any input should give, so inputs are varied: two are mixed (Zhang et al., "mixup: Beyond
Empirical Risk Minimization", ICLR 2018), or a box of one is put into the other where there are axes behind the channels
(Yun et al., "CutMix", ICCV 2019), moved along those axes, and mirrored along the last. Labels hold for inputs as they
are, and are learnt of those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.course import Course
from onnx_tucker.runtime.batches import Batches, some
from onnx_tucker.runtime.session import Feed

MOVED = 8
"""Inputs are moved along an axis by at most one part in so many."""
PASTED = 0.5
"""The share of the inputs that get a box of another one, and not a mixture."""
STEPS = 8
"""Of an epoch, at least, if there are as many samples."""
LOOKS = 16
"""Inputs that the weights are chosen by; samples kept apart are varied where there are fewer, but not to be more than
there are to learn from."""


class Lesson(NamedTuple):
    """What a step learns from: varied inputs, of which the teacher tells, and inputs as they are, with their labels."""

    varied: Feed
    plain: Feed
    labels: NDArray[Any] | None


class Lessons:
    """All that there is to learn from.

    Args:
        fit: the samples that are trained on.
        check: the samples that tell how good the network is.
        course: how to train.
        fixed: whether the model takes batches of one size only.
        mixed: whether inputs are varied.

    Attributes:
        size: samples of a step: no more than in a feed, which is as large as memory allows, or as the model takes it.
        steps: of an epoch.
    """

    def __init__(
        self, fit: Batches, check: Batches, course: Course, *, fixed: bool = False, mixed: bool = True
    ) -> None:
        self._fit, self._check, self._course, self._fixed, self._mixed = fit, check, course, fixed, mixed
        self._arrays = fit.joined
        self._labels = np.concatenate(fit.labels) if fit.labels else None
        size = max(map(fit.batch, fit.feeds))
        self.size = size if fixed else min(course.batch, size, max(1, fit.samples // STEPS))
        self.steps = len(fit.feeds) if self._arrays is None else -(-fit.samples // self.size)

    def epoch(self, number: int) -> Iterator[Lesson]:
        """The samples in another order each time, in batches."""
        rng, count, labels = np.random.default_rng((self._course.seed, number)), self._fit.samples, self._fit.labels
        if self._arrays is None or count == 1:
            for i in rng.permutation(len(self._fit.feeds)):
                yield Lesson(self._fit.feeds[i], self._fit.feeds[i], labels[i] if labels else None)
            return
        order, others = rng.permutation(count), rng.permutation(count)
        for start in range(0, count, self.size):
            these, those = order[start : start + self.size], others[start : start + self.size]
            batch, beside = (some(self._arrays, self._fit.along, which) for which in (these, those))
            mixed = varied(batch, beside, rng, self._fit.along) if self._mixed else batch
            yield Lesson(mixed, batch, None if self._labels is None else self._labels[these])

    def plain(self) -> Iterator[Feed]:
        """The samples as they are."""
        return (lesson.plain for lesson in self._pieces(self._fit))

    def exam(self) -> list[tuple[Lesson, int]]:
        """The samples kept apart, as they are, and varied where there are few of them, and how many a batch holds."""
        rng, check = np.random.default_rng((self._course.seed, self._course.epochs)), self._check
        lessons = list(self._pieces(check))
        mixed = self._mixed and self._course.distilled and self._arrays is not None and check.samples > 1
        most = min(LOOKS, self._fit.samples) if mixed else 0
        more = max(0, most // check.samples - 1)
        along = check.along
        lessons += [lesson._replace(varied=_mixed(lesson.plain, rng, along)) for _ in range(more) for lesson in lessons]
        return [(lesson, check.batch(lesson.plain)) for lesson in lessons]

    def _pieces(self, batches: Batches) -> Iterator[Lesson]:
        """Samples as they are, in batches that are no larger than those of a step may be."""
        for index, feed in enumerate(batches.feeds):
            labels = batches.labels[index] if batches.labels else None
            if self._fixed or self._arrays is None or batches.samples == 1:
                yield Lesson(feed, feed, labels)
                continue
            for start in range(0, batches.batch(feed), self._course.batch):
                part = slice(start, start + self._course.batch)
                samples = some(feed, batches.along, part)
                yield Lesson(samples, samples, None if labels is None else labels[part])


def varied(batch: Feed, others: Feed, rng: np.random.Generator, along: Collection[str]) -> Feed:
    """Samples each mixed with another or with a box of it, moved and mirrored; what have no fractions stay as they are.

    Args:
        batch: the samples.
        others: as many.
        rng: draws how.
        along: the inputs that hold them; others are the same for all.
    """
    made = {}
    for name, array in batch.items():
        if array.dtype.kind != "f" or name not in along:
            made[name] = array
            continue
        part = rng.random((len(array), *[1] * (array.ndim - 1))).astype(array.dtype)
        mixed = part * array + (1 - part) * others[name]
        if array.ndim > 2 and array.size:
            for i in np.flatnonzero(rng.random(len(array)) < PASTED):
                mixed[i] = _pasted(array[i], others[name][i], rng)
            mixed = np.stack([_moved(sample, rng) for sample in mixed])
        made[name] = mixed
    return made


def _mixed(batch: Feed, rng: np.random.Generator, along: Collection[str]) -> Feed:
    """Samples varied among themselves."""
    order = rng.permutation(next(len(array) for name, array in batch.items() if name in along))
    return varied(batch, some(batch, along, order), rng, along)


def _pasted(sample: NDArray[Any], other: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """A sample with a box of another in it, in its place there: any share of it is as likely, but for the borders."""
    share = rng.random() ** (1 / (sample.ndim - 1))
    box = [slice(None)]
    for size in sample.shape[1:]:
        start = int(rng.integers(size)) - round(share * size) // 2
        box.append(slice(max(0, start), start + max(1, round(share * size))))
    made: NDArray[Any] = sample.copy()
    made[tuple(box)] = other[tuple(box)]
    return made


def _moved(sample: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    axes = range(1, sample.ndim)
    most = [sample.shape[axis] // MOVED for axis in axes]
    sample = np.roll(sample, [int(rng.integers(-far, far + 1)) for far in most], tuple(axes))
    return np.flip(sample, -1) if rng.random() < 0.5 else sample
