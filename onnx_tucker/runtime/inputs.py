"""Inputs to run a model on: the user's data, checked against the model, or seeded noise."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import joblib
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.errors import DataError, UsageError
from onnx_tucker.runtime.session import Feed

TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}
TEXT = "tensor(string)"
"""Its arrays are of texts of any length."""

BATCH_BYTES = 64 * 2**20
"""Samples are run in batches of at most this much input."""

NOISE_VALUES = 2**28
"""Values that a random input may have; none that is meant to be run on a CPU has more."""


HELD_OUT = 5
"""One of so many samples is kept apart for checks, if there are as many."""


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
        return next((len(array) for name, array in feed.items() if name in self.along), 1)

    def finite(self, *, whole: bool) -> Batches:
        """Those of the samples in which all numbers are finite.

        Args:
            whole: whether feeds keep all their samples or none.
        """
        kept = [self._finite(feed) for feed in self.feeds]
        if whole:
            kept = [np.full(len(good), good.all()) for good in kept]
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
    def joined(self) -> dict[str, NDArray[Any]] | None:
        """All samples together, with what is the same for all of them; None where they are not of one shape."""
        first = self.feeds[0]
        if not self.along or len({shapes_of(feed, 1) for feed in self.feeds}) > 1:
            return None
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
        return str(joblib.hash([[dict(feed) for feed in part.feeds] for part in (self.fit, self.check)]))

    @property
    def held_out(self) -> bool:
        """Whether checks have samples of their own."""
        return self.check is not self.fit

    @property
    def feeds(self) -> list[Feed]:
        """All of them, those for checks first."""
        return [*self.check.feeds, *(self.fit.feeds if self.held_out else ())]


def from_data(
    parts: Sequence[Mapping[str, NDArray[Any]]],
    session: ort.InferenceSession,
    *,
    labels: Sequence[NDArray[Any]] = (),
    any_rank: Collection[str] = (),
    apart: bool = True,
    joined: bool = True,
) -> Inputs:
    """The user's samples as feeds of a model, in batches where its first dimension is free.

    Parts that cannot be joined, as their samples are of other sizes or do not lie along the first axis of every input,
    are run one by one. An input that is of the very shape that the model fixes, where others hold several samples, and
    equal in all parts, is the same for all of them.

    Args:
        parts: samples by input name; a single one may have the empty name.
        session: the model.
        labels: of the samples of each part, if there are any.
        any_rank: inputs that may have any number of axes; onnxruntime takes them for scalars.
        apart: whether some are kept for checks, if there are enough.
        joined: whether parts are, where they can be.

    Raises:
        DataError: a name, shape, type or number of samples does not fit.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    fitted = [_named(part, inputs, any_rank) for part in parts]
    same = _same_for_all(fitted, inputs)
    moving = [{name: array for name, array in part.items() if name not in same} for part in fitted]
    aligned = joined and all(_aligned(part) and shapes_of(part, 1) == shapes_of(moving[0], 1) for part in moving)
    told = _labels(labels, [len(next(iter(part.values()))) if aligned else None for part in moving])
    if not aligned:
        return _one_by_one(fitted, told, apart=apart) if len(fitted) > 1 else _same(Batches(1, fitted, told))
    along = {n: a if len(moving) == 1 else np.concatenate([part[n] for part in moving]) for n, a in moving[0].items()}
    arrays = {**fitted[0], **along}
    samples, whole = len(next(iter(along.values()))), np.concatenate(told) if told else None
    fixed = fixed_sizes(inputs[name] for name in along)
    sample_bytes = sum(array.nbytes for array in along.values()) // samples
    most = 1 if any(arrays[name].ndim for name in same) else max(1, min(64, BATCH_BYTES // max(sample_bytes, 1)))
    size = max(fixed, default=most)
    if fixed:
        samples -= samples % size  # a last batch that is not full cannot be run
        if not samples:
            raise DataError(f"The model takes batches of {size}, but the data has fewer samples.")

    def batches(chosen: NDArray[np.int64]) -> Batches:
        feeds = _feeds(arrays, along, chosen, size)
        pieces = [] if whole is None else [whole[chosen[i : i + size]] for i in range(0, len(chosen), size)]
        return Batches(len(chosen), feeds, pieces, frozenset(along))

    kept = _kept(samples, size if fixed else 1, apart=apart)
    if not kept.any():
        return _same(batches(np.arange(samples)))
    return Inputs("data", batches(np.flatnonzero(~kept)), batches(np.flatnonzero(kept)))


def _named(
    part: Mapping[str, NDArray[Any]], inputs: Mapping[str, Any], any_rank: Collection[str]
) -> dict[str, NDArray[Any]]:
    """A part of the data as the model takes it."""
    arrays = {name: np.asarray(array) for name, array in part.items()}
    if set(arrays) == {""} and len(inputs) == 1:
        arrays = {next(iter(inputs)): arrays[""]}
    if set(arrays) != set(inputs):
        advice = "name the arrays of an .npz file like the inputs"
        if set(inputs) < set(arrays):
            advice = "leave out the others, or say by --labels which one holds labels"
        raise DataError(
            f"The data has the keys {_listed(arrays)}, but the model's inputs are {_listed(inputs)}; {advice}."
        )
    return {name: _fit(array, inputs[name], any_rank=name in any_rank) for name, array in arrays.items()}


def _aligned(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether all have samples along their first axis."""
    lengths = {array.shape[:1] for array in arrays.values()}
    return len(lengths) == 1 and () not in lengths


def shapes_of(arrays: Feed, start: int) -> frozenset[tuple[str, tuple[int, ...]]]:
    """Shapes by name, from an axis on."""
    return frozenset((name, array.shape[start:]) for name, array in arrays.items())


def _same_for_all(parts: Sequence[Feed], inputs: Mapping[str, Any]) -> set[str]:
    """Inputs that are the same for all samples: of the very shape that the model fixes, where others hold several."""
    along = [inputs[name] for name in parts[0]]
    if all(map(_aligned, parts)) and len(fixed_sizes(along)) < 2:
        return set()
    first = parts[0]
    fixed = [name for name in first if list(first[name].shape) == inputs[name].shape]
    same = {name for name in fixed if all(np.array_equal(part[name], first[name]) for part in parts[1:])}
    return same if len(same) < len(first) else set()


def _labels(labels: Sequence[NDArray[Any]], samples: Sequence[int | None]) -> list[NDArray[Any]]:
    """The labels of parts, one for each of so many samples; of those whose samples are not counted as they are.

    Raises:
        DataError: they are of other numbers, or of different shapes.
    """
    told = [np.atleast_1d(one) for one in labels]
    for one, count in zip(told, samples, strict=False):
        if count is not None and len(one) != count:
            raise DataError(f"There are {count} samples, but labels of the shape {one.shape}.")
    if len({one.shape[1:] for one in told}) > 1:
        raise DataError("The labels in the parts of the data are of different shapes, which cannot be learnt together.")
    return told


def _kept(count: int, unit: int, *, apart: bool) -> NDArray[np.bool_]:
    """Which samples are kept for checks, always so many in a row together."""
    return np.asarray((np.arange(count) // unit % HELD_OUT == HELD_OUT - 1) & apart)


def _one_by_one(parts: Sequence[Feed], labels: Sequence[NDArray[Any]], *, apart: bool) -> Inputs:
    """Parts that are each a feed, and count as a sample."""

    def batches(chosen: NDArray[np.int64]) -> Batches:
        return Batches(len(chosen), [parts[i] for i in chosen], [labels[i] for i in chosen if labels])

    kept = _kept(len(parts), 1, apart=apart)
    if not kept.any():
        return _same(batches(np.arange(len(parts))))
    return Inputs("data", batches(np.flatnonzero(~kept)), batches(np.flatnonzero(kept)))


def fixed_sizes(inputs: Iterable[Any]) -> set[int]:
    """Sizes of a batch that the model asks for."""
    return {v.shape[0] for v in inputs if v.shape and isinstance(v.shape[0], int) and v.shape[0] > 0}


def split(data: Inputs, session: ort.InferenceSession, most: int) -> Inputs:
    """The same samples in batches of at most so many, if the model leaves that open.

    Args:
        data: the user's.
        session: the model.
        most: samples of a batch.
    """
    sizes = [part.batch(feed) for part in (data.fit, data.check) for feed in part.feeds]
    if fixed_sizes(session.get_inputs()) or max(sizes) <= most:
        return data

    def cut(part: Batches) -> Batches:
        cuts = ((feed, slice(i, i + most)) for feed in part.feeds for i in range(0, part.batch(feed), most))
        feeds = [some(feed, part.along, which) for feed, which in cuts]
        labels = [piece for told in part.labels for piece in np.split(told, range(most, len(told), most))]
        return Batches(part.samples, feeds, labels, part.along)

    fit = cut(data.fit)
    return Inputs(data.kind, fit, cut(data.check) if data.held_out else fit)


def _feeds(
    arrays: Mapping[str, NDArray[Any]], along: Collection[str], samples: NDArray[np.int64], size: int
) -> list[Feed]:
    """Some of the samples in batches, with what is the same for all of them."""
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    return [some(arrays, along, batch) for batch in batches]


def some(arrays: Feed, along: Collection[str], which: NDArray[Any] | slice) -> Feed:
    """Some of the samples, with what is the same for all of them.

    Args:
        arrays: by input name.
        along: those along whose first axis samples lie.
        which: of the samples.
    """
    return {name: array[which] if name in along else array for name, array in arrays.items()}


def folds(data: Inputs, count: int) -> list[Inputs]:
    """What factors are fitted to in parts, each of which is kept for checks once; empty where there is only one part.

    Args:
        data: the user's; whole feeds are kept together if there are several.
        count: the most parts.
    """
    feeds, samples = data.fit.feeds, data.fit.samples
    if len(feeds) == 1 and samples > 1:
        feeds = _feeds(feeds[0], data.fit.along, np.arange(samples), 1)
    made = []
    for fold in range(min(count, len(feeds)) if len(feeds) > 1 else 0):
        parts = ([f for i, f in enumerate(feeds) if (i % count == fold) == kept] for kept in (False, True))
        sides = (Batches(sum(map(data.fit.batch, part)), part, (), data.fit.along) for part in parts)
        made.append(Inputs(data.kind, *sides))
    return made


def _same(both: Batches, kind: str = "data") -> Inputs:
    """All samples for all purposes."""
    return Inputs(kind, both, both)


def random(session: ort.InferenceSession, shapes: Mapping[str, tuple[int, ...]], seed: int, feeds: int) -> Inputs:
    """Seeded noise: standard normal, and zeros and ones for integers.

    Args:
        session: the model.
        shapes: shape of every input.
        seed: of the noise.
        feeds: how many feeds.

    Raises:
        UsageError: the shape or type of an input is not known, or they would be too large.
    """
    rng = np.random.default_rng(seed)
    values = sum(math.prod(shapes.get(value.name, ())) for value in session.get_inputs())
    if values > NOISE_VALUES:
        raise UsageError(
            f"Random inputs would have {values:.2g} values; give smaller ones by --input-shape, or --data."
        )

    def draw(value: Any) -> NDArray[Any]:
        if value.type not in TYPES:
            advice = "; give --data" if value.type == TEXT else ""
            raise UsageError(f"The input {value.name} is a {value.type}, which cannot be made up{advice}.")
        if value.name not in shapes:
            raise UsageError(f"The shape of input {value.name} is not known; give --input-shape or --data.")
        dtype = np.dtype(TYPES[value.type])
        noise = np.asarray(rng.standard_normal(shapes[value.name]))  # a scalar is no array by itself
        return noise.astype(dtype) if dtype.kind == "f" else np.asarray(noise > 0, dtype)

    try:
        made = [{value.name: draw(value) for value in session.get_inputs()} for _ in range(feeds)]
    except (MemoryError, ValueError) as error:
        raise UsageError(f"Random inputs cannot be made: {error}.") from error
    along = frozenset(made[0]) if _aligned(made[0]) else frozenset[str]()
    batch = len(next(iter(made[0].values()))) if along else 1
    return _same(Batches(feeds * batch, made, (), along), "random")


def sample_shapes(data: Inputs, session: ort.InferenceSession) -> dict[str, tuple[int, ...]]:
    """Shapes of a single sample of the data, or of the batch that the model is fixed to."""
    shapes = {}
    for value in session.get_inputs():
        array = data.fit.feeds[0][value.name]
        shapes[value.name] = (1, *array.shape[1:]) if value.name in data.fit.along else array.shape
    return shapes


def _fit(array: NDArray[Any], value: Any, *, any_rank: bool) -> NDArray[Any]:
    dtype = TYPES.get(value.type)
    if dtype is None and value.type != TEXT:
        raise DataError(f"The input {value.name} is a {value.type}, which data cannot hold.")
    shape = [d if isinstance(d, int) else None for d in value.shape]
    fits = any_rank or (
        array.ndim == len(shape)
        and all(want is None or want == have for want, have in zip(shape[1:], array.shape[1:], strict=True))
    )
    if fits and not array.size:
        raise DataError(f"The data for input {value.name} has no samples.")
    if not fits:
        wanted = f"({', '.join('any' if d is None else str(d) for d in shape)})"
        raise DataError(f"The data for input {value.name} has the shape {array.shape}; the model takes {wanted}.")
    fits = _is_text(array) if dtype is None else np.can_cast(array.dtype, dtype, "same_kind")
    if not fits:
        wanted = "texts" if dtype is None else str(np.dtype(dtype))
        raise DataError(f"The data for input {value.name} is {array.dtype}; the model takes {wanted}.")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and counts as that
        return array.astype(np.str_ if dtype is None else dtype, copy=False)


def _is_text(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "U" or (array.dtype.kind == "O" and all(isinstance(one, str) for one in array.flat))


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) if name else "none (.npy)" for name in sorted(names))
