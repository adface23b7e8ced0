"""What a model is run on: the user's data, in batches of which no value is very large, or noise."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.errors import DataError, UsageError
from onnx_tucker.graph import shapes
from onnx_tucker.graph.find import Found, macs
from onnx_tucker.runtime import data_files, inputs, noise
from onnx_tucker.runtime.batches import Inputs, shapes_of
from onnx_tucker.runtime.session import FAILURES, TYPES, Feed, first_line, memory, run_within
from onnx_tucker.settings import Settings

logger = logging.getLogger(__name__)

RANDOM_FEEDS, HEAVY = 4, 1e9
"""Draws of noise that outputs are compared on, and multiply-accumulates from which on one draw has to do."""
BATCH_VALUE_BYTES = 2**28
"""What any value of a batch may take; a session holds several of them."""
PATIENCE = 3.0
"""Seconds that any model may take to run, besides its multiplications."""
SLOWEST = 1e8
"""Multiply-accumulates a second, far fewer than any machine does."""
LONGEST = 3600.0
"""Seconds that no model may take."""
LOOKED_AT = 64
"""Samples whose values are looked at."""


class Samples(NamedTuple):
    """The user's data.

    Attributes:
        parts: arrays by input name.
        labels: of each part, if there are any.
        any_rank: the model's inputs that may have any number of axes.
    """

    parts: list[dict[str, NDArray[Any]]]
    labels: list[NDArray[Any]]
    any_rank: frozenset[str]


def read(session: ort.InferenceSession | None, model: onnx.ModelProto, settings: Settings) -> Samples:
    """The user's data, with the labels apart.

    Raises:
        DataError: it cannot be read, it has no such labels, or there is no model to run on it.
    """
    given = data_files.read(settings.data_paths) if settings.data_paths else settings.data_arrays
    parts = [{name: _array(name, values) for name, values in part.items()} for part in given]
    if not any(parts):
        return Samples([], [], frozenset())
    if settings.labels is not None and any(settings.labels not in part for part in parts):
        raise DataError(f"The data has no array {settings.labels!r} of labels.")
    if session is not None and settings.labels in {value.name for value in session.get_inputs()}:
        raise UsageError(f"--labels {settings.labels}: that is an input of the model, and no array of labels.")
    labels = [part.pop(settings.labels) for part in parts] if settings.labels is not None else []
    if session is None:
        raise DataError("onnxruntime cannot run the model, so --data is of no use; see the reason above.")
    _tell_of_integers(session, parts[0])
    any_rank = {value.name for value in model.graph.input if not value.type.tensor_type.HasField("shape")}
    return Samples(parts, labels, frozenset(any_rank))


def _array(name: str, values: Any) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(f"The data for input {name} is no array: {error}") from error


def _tell_of_integers(session: ort.InferenceSession, part: Feed) -> None:
    """Warns of whole numbers for an input of others: pixels may have been left unscaled, which nothing else shows."""
    wanted = {value.name: TYPES.get(value.type) for value in session.get_inputs()}
    for name, array in inputs.by_name(part, wanted).items():
        dtype = wanted.get(name)
        if array.dtype.kind not in "iu" or dtype is None or not np.issubdtype(dtype, np.floating):
            continue
        largest = np.atleast_1d(array)[:LOOKED_AT].max(initial=0)
        if largest > 1:  # zeros and ones are hardly pixels
            logger.warning(
                "The data for input %s is %s, up to %d, and goes into the model as it is: scale it as it is used.",
                name,
                array.dtype,
                largest,
            )


def batched(session: ort.InferenceSession, samples: Samples, data: Inputs, value_bytes: float) -> Inputs:
    """The data in batches of which no value is very large, some apart for checks, if the model runs on those.

    A model that does not is run on single samples, or else on each part of the data as it is given.

    Args:
        session: the model.
        samples: the data as it was given.
        data: the same as feeds.
        value_bytes: what the largest value of a sample takes.

    Raises:
        DataError: the model runs on none of that.
    """
    faults: list[str] = []
    for way in _ways(session, samples, data, max(1, int(BATCH_VALUE_BYTES / max(value_bytes, 1.0)))):
        try:
            for feed in {shapes_of(feed, 0): feed for feed in way.feeds[::-1]}.values():
                session.run(None, dict(feed))
        except FAILURES as error:
            faults.append(first_line(error))
            logger.info("the model does not run on batches of the data: %s", faults[-1])
        else:
            return way
    lengths = {name: len(array) for name, array in samples.parts[0].items() if array.ndim}
    uneven = ", ".join(f"{name} {length}" for name, length in lengths.items()) if len({*lengths.values()}) > 1 else ""
    also = f", whose arrays have different lengths ({uneven})" if uneven else ""
    raise DataError(f"The model does not run on the data{also}: {faults[0]}")


def _ways(session: ort.InferenceSession, samples: Samples, data: Inputs, most: int) -> Iterator[Inputs]:
    """The data in batches of so many samples, by single samples, and as it was given."""
    yield inputs.split(data, session, most)
    yield inputs.split(data, session, 1)
    several = len(samples.parts) > 1
    yield inputs.from_data(
        samples.parts, session, labels=samples.labels, any_rank=samples.any_rank, apart=several, joined=not several
    )


def value_bytes(model: onnx.ModelProto, known: shapes.Shapes, sample: shapes.Shapes) -> float:
    """Bytes of the largest value that nodes give for a sample, as far as shapes are known."""
    batch = max((known[name][0] for name in sample if known.get(name)), default=1)
    made = (known.get(name) for node in model.graph.node for name in node.output)
    return 4 * max((math.prod(shape) for shape in made if shape), default=0) / max(batch, 1)


def _patience(found: list[Found]) -> float:
    """Seconds after which a model that runs on noise is taken never to end; no machine is that slow."""
    return min(PATIENCE + macs(found) / SLOWEST, LONGEST)


def runnable(
    session: ort.InferenceSession | None, data: Inputs | None, known: shapes.Shapes, seed: int, found: list[Found]
) -> Inputs | None:
    """The data, else noise, if the model runs on it; None where there is nothing that it runs on."""
    if session is None or data is not None:
        return data
    largest = _largest(known)
    if largest > memory() / 4:
        logger.warning(
            "The model is not run, as one of its values would take %.3g GB; give --data or a smaller --input-shape.",
            largest / 1e9,
        )
        return None
    try:
        made = noise.drawn(session, known, seed, RANDOM_FEEDS if macs(found) < HEAVY else 1)
        run_within(session, made.fit.feeds[0], _patience(found))
    except UsageError as error:
        logger.warning("Outputs are not compared and the model is not timed. %s", error)
        return None
    except FAILURES as error:
        logger.warning(
            "The model does not run on random inputs, so give --data to compare and time it: %s", first_line(error)
        )
        return None
    return made


def tried(session: ort.InferenceSession, known: shapes.Shapes, seed: int) -> Feed | None:
    """Noise that the model is seen to run on without delay; None where there is none."""
    if _largest(known) > memory() / 4:
        return None
    try:
        feed = noise.drawn(session, known, seed, 1).fit.feeds[0]
        run_within(session, feed, PATIENCE)
    except (UsageError, *FAILURES) as error:
        logger.info("shapes are not read off a run: %s", first_line(error))
        return None
    return feed


def _largest(known: shapes.Shapes) -> float:
    """Bytes of the largest value."""
    return 4.0 * max(map(math.prod, known.values()), default=0)


def timed(session: ort.InferenceSession | None, ran: Inputs | None, known: shapes.Shapes, seed: int) -> Feed | None:
    """An input of the shape that is counted, from the data where it has enough samples; if the model runs on it.

    Else it is the first batch of the data, on which the model has run. None where it has not run at all.
    """
    if session is None or ran is None:
        return None
    first, part = ran.fit.feeds[0], counted(session, ran, known, seed)
    if all(part[name].shape == first[name].shape for name in first):
        return part  # on which it has run already
    try:
        session.run(None, dict(part))
    except FAILURES as error:
        logger.info("the model is timed on a whole batch, as it does not run on the counted shape: %s", error)
        return first
    return part


def counted(session: ort.InferenceSession, ran: Inputs, known: shapes.Shapes, seed: int, number: int = 0) -> Feed:
    """An input of the shape that is counted, from the data where it has enough samples, else noise if it can be.

    Args:
        session: the model.
        ran: the data.
        known: shapes of the inputs.
        seed: of the noise.
        number: which of these inputs it is.
    """
    part = dict(ran.fit.feeds[0])
    for name, size in ((name, known[name][0]) for name in part if known.get(name)):
        start = number * size if name in ran.fit.along else 0  # what is the same for all samples stays
        part[name] = part[name][start : start + size]
    if any(array.shape != known.get(name, array.shape) for name, array in part.items()):
        try:
            return noise.drawn(session, known, seed, 1).fit.feeds[0]
        except UsageError as error:
            logger.info("the first of the data stands for what is counted: %s", error)
            return ran.fit.feeds[0]
    return part
