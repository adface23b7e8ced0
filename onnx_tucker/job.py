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
        content: the model as bytes.
        session: a session on it, or None where onnxruntime cannot run it.
        context: shapes, uses and constants of the main graph.
        found: all weight-bearing nodes.
        inputs: what outputs are compared on, or None where nothing can be run.
        stopwatch: times models.
        progress: is told how far it is.
    """

    settings: Settings
    model: onnx.ModelProto
    content: bytes
    session: ort.InferenceSession | None
    context: Context
    found: list[Found]
    inputs: Inputs | None
    stopwatch: Stopwatch
    progress: Progress

    @property
    def timed_input(self) -> Feed | None:
        """One sample, or None: the first of the data, else noise."""
        if self.inputs is None:
            return None
        feed = self.inputs.feeds[0]
        if self.inputs.kind == "random" or self.session is None:
            return feed
        free = all(not v.shape or not isinstance(v.shape[0], int) for v in self.session.get_inputs())
        return {name: array[:1] for name, array in feed.items()} if free else feed


def prepare(source: onnx.ModelProto | Path, settings: Settings, progress: Progress) -> Job:
    """Reads the model and the data, and looks the graph over.

    Raises:
        ModelError: the model cannot be read, or it is invalid and onnxruntime cannot run it either.
        DataError: the data does not fit the model.
        UsageError: an option names something that the model does not have.
    """
    model = io.load(source) if isinstance(source, Path) else source
    content = model.SerializeToString(deterministic=True)
    machine = Machine(settings.threads, Path(settings.custom_op_lib) if settings.custom_op_lib else None)
    machine.check()
    session = _session(model, content, machine)
    arrays = _arrays(settings)
    data = _data(session, arrays)
    named = {name: tuple(shape) for name, shape in settings.input_shape.items()}
    given = {**inputs.first_samples(arrays, list(shapes.input_types(model))), **named}
    known = shapes.infer(model, given, settings.dim)
    context = context_of(model, known)
    return Job(
        settings=settings,
        model=model,
        content=content,
        session=session,
        context=context,
        found=find(model, context),
        inputs=data or _noise(session, known, settings.seed),
        stopwatch=Stopwatch(machine, Path(settings.cache) if settings.cache else None),
        progress=progress,
    )


def _session(model: onnx.ModelProto, content: bytes, machine: Machine) -> ort.InferenceSession | None:
    try:
        return machine.session(content)
    except FAILURES as error:
        reason = first_line(error)
    try:
        onnx.checker.check_model(model)
    except io.FAILURES as error:
        raise ModelError(f"The model is not valid: {first_line(error)}") from error
    logger.warning("onnxruntime cannot run the model, so nothing is timed or compared: %s", reason)
    return None


def _arrays(settings: Settings) -> Mapping[str, NDArray[Any]]:
    if isinstance(settings.data, Mapping):
        return settings.data
    return inputs.read_data(settings.data_paths) if settings.data_paths else {}


def _data(session: ort.InferenceSession | None, arrays: Mapping[str, NDArray[Any]]) -> Inputs | None:
    if not arrays:
        return None
    if session is None:
        raise DataError("onnxruntime cannot run the model, so --data is of no use; see the reason above.")
    return inputs.from_data(arrays, session)


def _noise(session: ort.InferenceSession | None, known: shapes.Shapes, seed: int) -> Inputs | None:
    if session is None:
        return None
    try:
        return inputs.random(session, known, seed, RANDOM_FEEDS)
    except UsageError as error:
        logger.warning("Outputs are not compared and the model is not timed. %s", error)
        return None
