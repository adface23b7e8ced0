"""The samples that a model is run on, in batches, some of them kept apart for checks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from onnx_tucker.runtime.session import Feed


class Stack:
    """Arrays as if they were one, along their first axis.

    Args:
        parts: of the same shape but for that axis.
    """

    def __init__(self, parts: Sequence[NDArray[Any]]) -> None:
        self._parts, self._ends = parts, np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.nbytes = sum(part.nbytes for part in parts)

    def __getitem__(self, which: NDArray[np.int64]) -> NDArray[Any]:
        at = np.searchsorted(self._ends, which, side="right")
        return np.stack([self._parts[i][number - self._ends[i]] for i, number in zip(at, which, strict=True)])


Arrays = Mapping[str, NDArray[Any] | Stack]
"""By input name."""


class Cut(Mapping[str, NDArray[Any]]):
    """Some samples of arrays, copied when they are asked for: what is in memory is there once, what is in a file not.

    Args:
        arrays: by input name.
        along: those along whose first axis samples lie; others are the same for all.
        which: the numbers of the samples.
    """

    def __init__(self, arrays: Arrays, along: Collection[str], which: NDArray[np.int64]) -> None:
        self._arrays, self._along, self._which = arrays, along, which

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = self._arrays[name]
        return array[self._which] if name in self._along or isinstance(array, Stack) else array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # other processes need none of the other samples

    @property
    def samples(self) -> int:
        """How many they are."""
        return len(self._which)

    def some(self, which: NDArray[Any] | slice) -> Cut:
        """Some of them."""
        return Cut(self._arrays, self._along, self._which[which])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all arrays, by name."""
        return {
            name: (self.samples, *array.shape[1:]) if name in self._along else array.shape
            for name, array in self._arrays.items()
        }

    def beside(self, other: Feed) -> bool:
        """Whether both are cut from the same arrays."""
        return isinstance(other, Cut) and other._arrays is self._arrays

    @classmethod
    def joined(cls, cuts: Sequence[Cut]) -> Cut:
        """Samples of the same arrays, together."""
        return cls(cuts[0]._arrays, cuts[0]._along, np.concatenate([cut._which for cut in cuts]))


@dataclass(frozen=True)
class Batches:
    """Feeds for a model.

    Attributes:
        samples: how many samples all feeds hold together.
        feeds: what to run, in order.
        labels: of each feed, if there are any.
        along: the inputs along whose first axis samples lie; others are the same for all. Empty where each feed is one.
    """

    samples: int
    feeds: Sequence[Feed]
    labels: Sequence[NDArray[Any]] = ()
    along: frozenset[str] = frozenset()

    def batch(self, feed: Feed) -> int:
        """How many samples one of the feeds holds."""
        if isinstance(feed, Cut):
            return feed.samples
        return next((len(array) for name, array in feed.items() if name in self.along), 1)

    def first(self, samples: int) -> Batches:
        """As many of the first feeds as hold at least so many samples, or all."""
        sizes = np.cumsum([self.batch(feed) for feed in self.feeds])
        count = int(np.searchsorted(sizes, samples)) + 1
        if count >= len(self.feeds):
            return self
        return Batches(int(sizes[count - 1]), self.feeds[:count], self.labels[:count], self.along)

    def few(self, samples: int) -> Batches:
        """The first samples, so many; all if there are no more, or whole feeds where each is one."""
        first = self.first(samples)
        over = first.samples - samples
        if over <= 0 or not self.along:
            return first
        *feeds, last = first.feeds
        part = slice(first.batch(last) - over)
        labels = [*first.labels[:-1], first.labels[-1][part]] if first.labels else ()
        return Batches(samples, [*feeds, some(last, self.along, part)], labels, self.along)

    def finite(self, *, whole: bool) -> Batches:
        """Those of the samples in which all numbers are finite.

        Args:
            whole: whether feeds keep all their samples or none.
        """
        kept = [self._finite(feed) for feed in self.feeds]
        return self._only([np.full(len(good), good.all()) for good in kept] if whole else kept)

    @property
    def spoilt(self) -> int:
        """How many samples have numbers that are not finite."""
        return sum(int(np.sum(~self._finite(feed))) for feed in self.feeds)

    def spread(self, samples: int) -> Batches:
        """So many samples, evenly from all of them; or all if there are no more."""
        kept = np.zeros(self.samples, bool)
        kept[evenly(self.samples, samples)] = True
        return self._only(np.split(kept, np.cumsum([self.batch(feed) for feed in self.feeds])[:-1]))

    def _only(self, kept: Sequence[NDArray[np.bool_]]) -> Batches:
        """Some of the samples of each feed, as told for each of them."""
        some_of = [(i, feed, good) for i, (feed, good) in enumerate(zip(self.feeds, kept, strict=True)) if good.any()]
        feeds = [feed if good.all() else some(feed, self.along, good) for _, feed, good in some_of]
        labels = [self.labels[i][good] if self.along else self.labels[i] for i, _, good in some_of if self.labels]
        return Batches(sum(int(good.sum()) for good in kept), feeds, labels, self.along)

    def _finite(self, feed: Feed) -> NDArray[np.bool_]:
        good = np.ones(self.batch(feed), bool)
        for name, array in feed.items():
            if array.dtype.kind == "f":
                good &= np.isfinite(array.reshape(len(good) if name in self.along else 1, -1)).all(axis=1)
        return good

    @property
    def blank(self) -> bool:
        """Whether values are the same throughout each sample; inputs of one value a sample, in all of them."""
        single, several = dict[str, Any](), False
        for feed in self.feeds:
            for name in self.along or feed:
                values = feed[name].reshape(len(feed[name]) if self.along else 1, -1)
                if not values.size:
                    continue
                first = values[:, :1] if values.shape[1] > 1 else single.setdefault(name, values[0, 0])
                if (values != first).any():
                    return False
                several |= values.shape[1] > 1
        return several

    @property
    def alike(self) -> bool:
        """Whether there are samples, of one shape."""
        return bool(self.along) and len({shapes_of(feed, 1) for feed in self.feeds}) == 1

    @property
    def joined(self) -> Feed | None:
        """All samples together, with what is the same for all of them; None where they are not alike."""
        first = self.feeds[0]
        if not self.alike:
            return None
        cuts = [feed for feed in self.feeds if isinstance(feed, Cut) and feed.beside(first)]
        if len(cuts) == len(self.feeds):
            return Cut.joined(cuts)
        return {n: np.concatenate([f[n] for f in self.feeds]) if n in self.along else a for n, a in first.items()}


@dataclass(frozen=True)
class Inputs:
    """What a model is run on, and where it comes from.

    Attributes:
        kind: "data" for the user's, "random" for seeded noise.
        fit: what factors are fitted to.
        check: what results are compared on, and no factor is fitted to; the same where there are too few samples.
    """

    kind: str
    fit: Batches
    check: Batches

    @cached_property
    def digest(self) -> str:
        """Of the values of all of them."""
        return str(joblib.hash([[joblib.hash(dict(feed)) for feed in part.feeds] for part in (self.fit, self.check)]))

    @classmethod
    def undivided(cls, kind: str, both: Batches) -> Inputs:
        """Samples that factors are fitted to and outputs are compared on alike."""
        return cls(kind, both, both)

    @cached_property
    def blank(self) -> bool:
        """Whether all samples are, which says nothing of what the model does."""
        return self.fit.blank and self.check.blank

    @property
    def held_out(self) -> bool:
        """Whether checks have samples of their own."""
        return self.check is not self.fit

    @property
    def feeds(self) -> list[Feed]:
        """All of them, those for checks first."""
        return [*self.check.feeds, *(self.fit.feeds if self.held_out else ())]


def aligned(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether all have samples along their first axis."""
    lengths = {array.shape[:1] for array in arrays.values()}
    return len(lengths) == 1 and () not in lengths


def shapes_of(arrays: Feed, start: int) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Shapes by name, from an axis on."""
    shapes = arrays.shapes() if isinstance(arrays, Cut) else {name: array.shape for name, array in arrays.items()}
    return frozenset((name, shape[start:]) for name, shape in shapes.items())


def feeds_of(arrays: Arrays, along: Collection[str], samples: NDArray[np.int64], size: int) -> list[Feed]:
    """Some of the samples in batches, with what is the same for all of them.

    Args:
        arrays: by input name.
        along: those along whose first axis samples lie.
        samples: their numbers.
        size: of a batch; the last may be smaller.
    """
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    return [Cut(arrays, along, batch) for batch in batches]


def some(arrays: Feed, along: Collection[str], which: NDArray[Any] | slice) -> Feed:
    """Some of the samples, with what is the same for all of them.

    Args:
        arrays: by input name.
        along: those along whose first axis samples lie.
        which: of the samples.
    """
    if isinstance(arrays, Cut):
        return arrays.some(which)
    return {name: array[which] if name in along else array for name, array in arrays.items()}


def turns(count: int, of: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Which of `of` parts each of some samples is in: each so many in a row are in all parts, in a random order.

    So each part has samples of all kinds where kinds take turns. Those that are left at the end have the number `of`.
    """
    whole = count // of * of
    found = rng.permuted(np.tile(np.arange(of), (whole // of, 1)), axis=1).ravel()
    return np.pad(found, (0, count - whole), constant_values=of)


def folds(data: Inputs, count: int) -> list[Inputs]:
    """What factors are fitted to in parts, each of which is kept for checks once; empty where there is only one part.

    Args:
        data: the user's; whole feeds are kept together if there are several.
        count: the most parts.
    """
    feeds, samples = data.fit.feeds, data.fit.samples
    if len(feeds) == 1 and samples > 1:
        feeds = [some(feeds[0], data.fit.along, slice(i, i + 1)) for i in range(samples)]
    made, count = [], min(count, len(feeds))
    fold_of = turns(len(feeds), count, np.random.default_rng(0)) % count
    for fold in range(count if len(feeds) > 1 else 0):
        parts = ([f for f, i in zip(feeds, fold_of, strict=True) if (i == fold) == kept] for kept in (False, True))
        sides = (Batches(sum(map(data.fit.batch, part)), part, (), data.fit.along) for part in parts)
        made.append(Inputs(data.kind, *sides))
    return made


def evenly(count: int, number: int) -> list[int]:
    """So many whole numbers below `count`, evenly spaced from the first to the last; all if they are fewer."""
    return [int(i) for i in np.linspace(0, count - 1, min(number, count)).round()]
