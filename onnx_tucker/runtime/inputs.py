"""Inputs to run a model on: the user's data, checked against the model, or seeded noise."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
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
    """

    samples: int
    feeds: Sequence[Feed]
    labels: Sequence[NDArray[Any]] = ()

    def batch(self, feed: Feed) -> int:
        """How many samples one of the feeds holds."""
        return len(next(iter(feed.values()))) if self.samples > 1 else 1


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


def read_data(paths: Sequence[Path]) -> dict[str, NDArray[Any]]:
    """Reads `.npz` (keys are input names) and `.npy` files and folders of them; samples are joined in order.

    A `.npy` file, which has no keys, is returned under the empty name.

    Raises:
        DataError: a file cannot be read, or files do not have the same keys and sample shapes.
    """
    files = [file for path in paths for file in _files(path)]
    return joined([_load(file) for file in files])


def joined(batches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Batches of samples as one.

    Raises:
        DataError: they do not have the same keys and sample shapes.
    """
    if len({frozenset(batch) for batch in batches}) > 1:
        seen = ", ".join(sorted({name or "none (.npy)" for batch in batches for name in batch}))
        raise DataError(f"The parts of the data do not all have the same keys; seen: {seen}.")
    parts = {name: [np.asarray(batch[name]) for batch in batches] for name in (batches[0] if batches else ())}
    try:
        return {name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise DataError(f"The parts of the data cannot be joined into one set of samples: {error}.") from error


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
    if not files:
        raise DataError(f"The folder {path} holds no .npz or .npy file.")
    return files


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"": content}
            with content:
                arrays = {name: content[name] for name in content.files}
        if not arrays:
            raise DataError(f"The data file {path} has no arrays in it.")
        return arrays
    except FileNotFoundError as error:
        raise DataError(f"There is no data file {path}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"The data file {path} cannot be read, as it is damaged or cut short ({error}); copy it anew."
        ) from error
    except (OSError, ValueError, KeyError, MemoryError) as error:
        if "pickled" in str(error):  # numpy takes whatever it does not know for that
            raise DataError(
                f"The data file {path} cannot be read: it is neither .npz nor .npy, as numpy writes them."
            ) from error
        raise DataError(f"The data file {path} cannot be read as .npz or .npy: {error}") from error


def from_data(
    arrays: Mapping[str, NDArray[Any]],
    session: ort.InferenceSession,
    *,
    labels: NDArray[Any] | None = None,
    apart: bool = True,
) -> Inputs:
    """The user's samples as feeds of a model, in batches where its first dimension is free.

    Args:
        arrays: samples by input name; a single one may have the empty name.
        session: the model.
        labels: of the samples.
        apart: whether some are kept for checks, if there are enough.

    Raises:
        DataError: a name, shape, type or number of samples does not fit.
    """
    inputs = {value.name: value for value in session.get_inputs()}
    if set(arrays) == {""} and len(inputs) == 1:
        arrays = {next(iter(inputs)): arrays[""]}
    if set(arrays) != set(inputs):
        raise DataError(
            f"The data has the keys {_listed(arrays)}, but the model's inputs are {_listed(inputs)}; "
            "name the arrays of an .npz file like the inputs."
        )
    fitted = {name: _fit(array, inputs[name]) for name, array in arrays.items()}
    if len({array.shape[:1] for array in fitted.values()}) != 1 or () in {array.shape for array in fitted.values()}:
        return _same(Batches(1, [fitted], () if labels is None else [labels]))  # they share no batch axis: one sample
    samples = len(next(iter(fitted.values())))
    if labels is not None and labels.shape[:1] != (samples,):
        raise DataError(f"There are {samples} samples, but labels of the shape {labels.shape}.")
    fixed = _fixed(session)
    sample_bytes = sum(array.nbytes for array in fitted.values()) // samples
    size = max(fixed, default=max(1, min(64, BATCH_BYTES // max(sample_bytes, 1))))
    if fixed:
        samples -= samples % size  # a last batch that is not full cannot be run
        if not samples:
            raise DataError(f"The model takes batches of {size}, but the data has fewer samples.")
    unit = size if fixed else 1
    number = np.arange(samples) // unit
    kept = (number % HELD_OUT == HELD_OUT - 1) & apart

    def batches(chosen: NDArray[np.int64]) -> Batches:
        told = [] if labels is None else [feed[""] for feed in _feeds({"": labels}, chosen, size)]
        return Batches(len(chosen), _feeds(fitted, chosen, size), told)

    if not kept.any():
        return _same(batches(np.arange(samples)))
    return Inputs("data", batches(np.flatnonzero(~kept)), batches(np.flatnonzero(kept)))


def _fixed(session: ort.InferenceSession) -> set[int]:
    """Sizes of a batch that the model asks for."""
    return {v.shape[0] for v in session.get_inputs() if v.shape and isinstance(v.shape[0], int) and v.shape[0] > 0}


def split(data: Inputs, session: ort.InferenceSession, most: int) -> Inputs:
    """The same samples in batches of at most so many, if the model leaves that open.

    Args:
        data: the user's.
        session: the model.
        most: samples of a batch.
    """
    if _fixed(session) or all(part.batch(feed) <= most for part in (data.fit, data.check) for feed in part.feeds):
        return data

    def cut(part: Batches) -> Batches:
        feeds = [piece for feed in part.feeds for piece in _feeds(feed, np.arange(part.batch(feed)), most)]
        labels = [piece for told in part.labels for piece in np.split(told, range(most, len(told), most))]
        return Batches(part.samples, feeds, labels)

    fit = cut(data.fit)
    return Inputs(data.kind, fit, cut(data.check) if data.held_out else fit)


def _feeds(arrays: Mapping[str, NDArray[Any]], samples: NDArray[np.int64], size: int) -> list[Feed]:
    """Some of the samples, in batches."""
    batches = [samples[i : i + size] for i in range(0, len(samples), size)]
    return [{name: array[batch] for name, array in arrays.items()} for batch in batches]


def folds(data: Inputs, count: int) -> list[Inputs]:
    """What factors are fitted to in parts, each of which is kept for checks once; empty where there is only one part.

    Args:
        data: the user's; whole feeds are kept together if there are several.
        count: the most parts.
    """
    feeds, samples = data.fit.feeds, data.fit.samples
    if len(feeds) == 1 and samples > 1:
        feeds = _feeds(feeds[0], np.arange(samples), 1)
    made = []
    for fold in range(min(count, len(feeds)) if len(feeds) > 1 else 0):
        parts = ([f for i, f in enumerate(feeds) if (i % count == fold) == kept] for kept in (False, True))
        made.append(Inputs(data.kind, *(Batches(sum(map(data.fit.batch, part)), part) for part in parts)))
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
            raise UsageError(f"The input {value.name} is a {value.type}, which cannot be made up; give --data.")
        if value.name not in shapes:
            raise UsageError(f"The shape of input {value.name} is not known; give --input-shape or --data.")
        dtype = np.dtype(TYPES[value.type])
        noise = np.asarray(rng.standard_normal(shapes[value.name]))  # a scalar is no array by itself
        return noise.astype(dtype) if dtype.kind == "f" else np.asarray(noise > 0, dtype)

    try:
        made = [{value.name: draw(value) for value in session.get_inputs()} for _ in range(feeds)]
    except (MemoryError, ValueError) as error:
        raise UsageError(f"Random inputs cannot be made: {error}.") from error
    batches = {array.shape[:1] for array in made[0].values()}
    batch = next(iter(batches)) if len(batches) == 1 else ()
    return _same(Batches(feeds * (batch[0] if batch else 1), made), "random")


def sample_shapes(data: Inputs, session: ort.InferenceSession) -> dict[str, tuple[int, ...]]:
    """Shapes of a single sample of the data, or of the batch that the model is fixed to."""
    shapes = {}
    for value in session.get_inputs():
        array = data.fit.feeds[0][value.name]
        shapes[value.name] = (1, *array.shape[1:]) if data.fit.samples > 1 and array.ndim else array.shape
    return shapes


def _fit(array: NDArray[Any], value: Any) -> NDArray[Any]:
    dtype = TYPES.get(value.type)
    if dtype is None:
        raise DataError(f"The input {value.name} is a {value.type}, which .npz data cannot hold.")
    shape = [d if isinstance(d, int) else None for d in value.shape]
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape[1:], array.shape[1:], strict=True)
    )
    if fits and not array.size:
        raise DataError(f"The data for input {value.name} has no samples.")
    if not fits:
        wanted = f"({', '.join('any' if d is None else str(d) for d in shape)})"
        raise DataError(f"The data for input {value.name} has the shape {array.shape}; the model takes {wanted}.")
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DataError(f"The data for input {value.name} is {array.dtype}; the model takes {np.dtype(dtype)}.")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and counts as that
        return array.astype(dtype, copy=False)


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) if name else "none (.npy)" for name in sorted(names))
