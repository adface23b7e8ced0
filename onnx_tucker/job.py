"""One run of the tool: the model and everything that is known about it before any choice is made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.errors import DataError, ModelError, UsageError
from onnx_tucker.graph import io, shapes
from onnx_tucker.graph.find import Found, context_of, find
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.runtime import inputs
from onnx_tucker.runtime.inputs import Inputs
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line
from onnx_tucker.runtime.timing import Stopwatch
from onnx_tucker.settings import Settings

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how many steps are done, and how many there are."""

RANDOM_FEEDS = 4


@dataclass(frozen=True, eq=False)
class Job:
    """What the steps of the pipeline share; nothing in it changes.

    Attributes:
        settings: the user's options.
        model: the input model with all weights.
        data_files: the files beside the model's own that some of its weights came from.
        content: the model as bytes.
        session: a session on it, or None where onnxruntime cannot run it.
        context: shapes, uses and constants of the main graph.
        found: all weight-bearing nodes.
        inputs: what outputs are compared on, or None where nothing can be run.
        timed_feed: what the whole model is timed on, or None where nothing can be run.
        stopwatch: times models.
        progress: is told how far it is.
    """

    settings: Settings
    model: onnx.ModelProto
    data_files: frozenset[Path]
    content: bytes
    session: ort.InferenceSession | None
    context: Context
    found: list[Found]
    inputs: Inputs | None
    timed_feed: Feed | None
    stopwatch: Stopwatch
    progress: Progress


def prepare(source: onnx.ModelProto | Path, settings: Settings, progress: Progress) -> Job:
    """Reads the model and the data, and looks the graph over.

    Raises:
        ModelError: the model cannot be read, or it is invalid and onnxruntime cannot run it either.
        DataError: the data does not fit the model.
        UsageError: an option names something that the model does not have.
    """
    model, data_files = _load(source)
    content = model.SerializeToString(deterministic=True)
    machine = Machine(settings.threads, Path(settings.custom_op_lib) if settings.custom_op_lib else None)
    machine.check()
    session = _session(model, content, machine)
    data = _data(session, settings)
    sample = inputs.sample_shapes(data, session) if data is not None and session is not None else {}
    given = {name: tuple(shape) for name, shape in settings.input_shape.items()}
    known = shapes.infer(model, given, settings.dim, sample)
    context = context_of(model, known)
    ran = _runnable(session, data, known, settings.seed)
    return Job(
        settings=settings,
        model=model,
        data_files=data_files,
        content=content,
        session=session,
        context=context,
        found=find(model, context),
        inputs=ran,
        timed_feed=_timed(session, ran, known, settings.seed),
        stopwatch=Stopwatch(machine, Path(settings.cache) if settings.cache else None),
        progress=progress,
    )


def _load(source: onnx.ModelProto | Path) -> io.Loaded:
    if isinstance(source, Path):
        return io.load(source)
    missing = io.external_tensors(source)
    if missing:
        raise ModelError(f"The values of {missing[0].name!r} are in a file; load the model with its external data.")
    return io.Loaded(source, frozenset())


def _session(model: onnx.ModelProto, content: bytes, machine: Machine) -> ort.InferenceSession | None:
    try:
        return machine.session(content)
    except FAILURES as error:
        reason = first_line(error)
    fault = io.invalid(model)
    if fault:
        raise ModelError(f"The model is not valid: {fault}")
    logger.warning("onnxruntime cannot run the model, so nothing is timed or compared: %s", reason)
    return None


def _data(session: ort.InferenceSession | None, settings: Settings) -> Inputs | None:
    if isinstance(settings.data, Mapping):
        arrays: Mapping[str, NDArray[Any]] = settings.data
    else:
        arrays = inputs.read_data(settings.data_paths) if settings.data_paths else {}
    if not arrays:
        return None
    if session is None:
        raise DataError("onnxruntime cannot run the model, so --data is of no use; see the reason above.")
    return inputs.from_data(arrays, session)


def _runnable(
    session: ort.InferenceSession | None, data: Inputs | None, known: shapes.Shapes, seed: int
) -> Inputs | None:
    """The data, else noise, if the model runs on it; None where there is nothing that it runs on."""
    if session is None:
        return None
    try:
        chosen = data or inputs.random(session, known, seed, RANDOM_FEEDS)
        session.run(None, dict(chosen.feeds[0]))
    except UsageError as error:
        logger.warning("Outputs are not compared and the model is not timed. %s", error)
        return None
    except FAILURES as error:
        if data is not None:
            raise DataError(f"The model does not run on the data: {first_line(error)}") from error
        logger.warning("The model does not run on random inputs, so give --data to compare and time it: %s", error)
        return None
    return chosen


def _timed(session: ort.InferenceSession | None, ran: Inputs | None, known: shapes.Shapes, seed: int) -> Feed | None:
    """An input of the shape that is counted, from the data where it has enough samples, if the model runs on it."""
    if session is None or ran is None:
        return None
    first = ran.feeds[0]
    part = {name: array[: known[name][0]] if known.get(name) else array for name, array in first.items()}
    if any(array.shape != known.get(name, array.shape) for name, array in part.items()):
        part = dict(inputs.random(session, known, seed, 1).feeds[0])
    try:
        session.run(None, part)
    except FAILURES as error:
        logger.info("the model is timed on a whole batch, as it does not run on the counted shape: %s", error)
        return first
    return part
