"""The user's data as inputs of a model, checked against it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.errors import DataError
from onnx_tucker.runtime.batches import Batches, Inputs, Stack, aligned, feeds_of, shapes_of, some, turns
from onnx_tucker.runtime.session import FAILURES, TEXT, TYPES, Feed

logger = logging.getLogger(__name__)

BATCH_BYTES = 64 * 2**20
"""Samples are run in batches of at most this much input."""
HELD_OUT = 5
"""One of so many samples in a row is kept apart for checks, if there are as many."""


def from_data(
    parts: Sequence[Mapping[str, NDArray[Any]]],
    session: ort.InferenceSession,
    *,
    labels: Sequence[NDArray[Any]] = (),
    any_rank: Collection[str] = (),
    apart: bool = True,
    joined: bool = True,
    again: bool = True,
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
        again: whether samples that are the same as one before them are kept.

    Raises:
        DataError: a name, shape, type or number of samples does not fit.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    fitted = [_named(part, inputs, any_rank) for part in parts]
    same = _same_for_all(fitted, inputs)
    moving = [{name: array for name, array in part.items() if name not in same} for part in fitted]
    alike = joined and all(aligned(part) and shapes_of(part, 1) == shapes_of(moving[0], 1) for part in moving)
    told = _labels(labels, [len(next(iter(part.values()))) if alike else None for part in moving])
    if not alike:
        return _one_by_one(fitted, told, apart=apart)
    along = {n: a if len(moving) == 1 else Stack([part[n] for part in moving]) for n, a in moving[0].items()}
    arrays = {**fitted[0], **along}
    samples, whole = next(iter(along.values())).shape[0], np.concatenate(told) if told else None
    fixed = fixed_sizes(inputs[name] for name in along)
    sample_bytes = sum(array.nbytes for array in along.values()) // samples
    most = 1 if any(arrays[name].shape for name in same) else max(1, min(64, BATCH_BYTES // max(sample_bytes, 1)))
    size = max(fixed, default=most)
    if fixed:
        samples -= samples % size  # a last batch that is not full cannot be run
        if not samples:
            raise DataError(f"The model takes batches of {size}, but the data has fewer samples.")

    numbers = np.arange(samples)
    if not again and not fixed:
        numbers = _different([*along.values(), *([] if whole is None else [whole])])
        if len(numbers) < samples:
            logger.warning(
                "%d of %d samples are the same as others, of which nothing more is learnt, and are left out.",
                samples - len(numbers),
                samples,
            )

    def batches(chosen: NDArray[np.int64]) -> Batches:
        chosen = numbers[chosen]
        feeds = feeds_of(arrays, along, chosen, size)
        pieces = [] if whole is None else [whole[chosen[i : i + size]] for i in range(0, len(chosen), size)]
        return Batches(len(chosen), feeds, pieces, frozenset(along))

    return _divided(batches, len(numbers), size if fixed else 1, apart=apart)


def _different(arrays: Sequence[NDArray[Any] | Stack]) -> NDArray[np.int64]:
    """Numbers of the samples that are not the same as one before them.

    Args:
        arrays: with samples along their first axis.
    """
    known, found = set[bytes](), []
    for i in range(arrays[0].shape[0]):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            sample = array[np.array([i])]
            digest.update(repr(sample.tolist()).encode() if sample.dtype.hasobject else sample.tobytes())
        if digest.digest() not in known:
            known.add(digest.digest())
            found.append(i)
    return np.array(found, np.int64)


def _named(
    part: Mapping[str, NDArray[Any]], inputs: Mapping[str, Any], any_rank: Collection[str]
) -> dict[str, NDArray[Any]]:
    """A part of the data as the model takes it."""
    arrays = by_name(part, inputs)
    if set(arrays) != set(inputs):
        advice = "name the arrays of an .npz file like the inputs"
        if set(arrays) == {""} and inputs:
            raise DataError(f"An array without a name does for a single input only; the model has {_listed(inputs)}.")
        if set(inputs) < set(arrays):
            advice = "leave out the others, or say by --labels which one holds labels"
        raise DataError(
            f"The data has the keys {_listed(arrays)}, but the model's inputs are {_listed(inputs)}; {advice}."
        )
    return {name: _fit(array, inputs[name], any_rank=name in any_rank) for name, array in arrays.items()}


def by_name(part: Mapping[str, NDArray[Any]], inputs: Collection[str]) -> dict[str, NDArray[Any]]:
    """A part of the data by the names of inputs: a single array without one is that of the only input."""
    arrays = {name: np.asarray(array) for name, array in part.items()}
    return {next(iter(inputs)): arrays[""]} if set(arrays) == {""} and len(inputs) == 1 else arrays


def _same_for_all(parts: Sequence[Feed], inputs: Mapping[str, Any]) -> set[str]:
    """Inputs that are the same for all samples: of the very shape that the model fixes, where others hold several."""
    along = [inputs[name] for name in parts[0]]
    if all(map(aligned, parts)) and len(fixed_sizes(along)) < 2:
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


def _divided(batches: Callable[[NDArray[np.int64]], Batches], count: int, unit: int, *, apart: bool) -> Inputs:
    """Samples, some of which are kept for checks if there are enough, always so many in a row together.

    They are the same in all runs, as what one has fitted another may check.
    """
    kept = np.repeat(turns(count // unit, HELD_OUT, np.random.default_rng(0)) == 0, unit) & apart
    if not kept.any():
        return Inputs.undivided("data", batches(np.arange(count)))
    return Inputs("data", batches(np.flatnonzero(~kept)), batches(np.flatnonzero(kept)))


def _one_by_one(parts: Sequence[Feed], labels: Sequence[NDArray[Any]], *, apart: bool) -> Inputs:
    """Parts that are each a feed, and count as a sample."""

    def batches(chosen: NDArray[np.int64]) -> Batches:
        return Batches(len(chosen), [parts[i] for i in chosen], [labels[i] for i in chosen if labels])

    return _divided(batches, len(parts), 1, apart=apart)


def fixed_sizes(inputs: Iterable[Any]) -> set[int]:
    """Sizes of a batch that the model asks for."""
    return {v.shape[0] for v in inputs if v.shape and isinstance(v.shape[0], int) and v.shape[0] > 0}


def divisible(session: ort.InferenceSession, batches: Batches) -> bool:
    """Whether the model takes parts of its batches; that it does not it may not declare."""
    feed = batches.feeds[0]
    if fixed_sizes(session.get_inputs()):
        return False
    try:
        if batches.batch(feed) > 1:
            session.run(None, dict(some(feed, batches.along, slice(1))))
    except FAILURES:
        return False
    return True


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


def sample_shapes(data: Inputs) -> dict[str, tuple[int, ...]]:
    """Shapes of a single sample of the data; of inputs that samples do not lie along, as they are."""
    along = data.fit.along
    return {name: (1, *a.shape[1:]) if name in along else a.shape for name, a in data.fit.feeds[0].items()}


def _fit(array: NDArray[Any], value: Any, *, any_rank: bool) -> NDArray[Any]:
    dtype = TYPES.get(value.type)
    if dtype is None and value.type != TEXT:
        raise DataError(f"The input {value.name} is a {value.type}, which data cannot hold.")
    shape = [d if isinstance(d, int) else None for d in value.shape]
    fits = any_rank or (
        array.ndim == len(shape)
        and all(want is None or want == have for want, have in zip(shape[1:], array.shape[1:], strict=True))
    )
    if fits and array.shape[:1] == (0,):  # other axes may be empty, as those of states are at first
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
    return ", ".join(repr(name) if name else "none (.npy)" for name in sorted(names, key=str))
