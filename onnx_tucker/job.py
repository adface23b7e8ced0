"""One run of the tool: the model and everything that is known about it before any choice is made."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import onnx.inliner
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker import observed
from onnx_tucker.errors import DataError, ModelError, UsageError
from onnx_tucker.graph import io, shapes
from onnx_tucker.graph.check import FAILURES as CHECK_FAILURES
from onnx_tucker.graph.check import LIMIT, fatal, invalid, weight_bytes
from onnx_tucker.graph.find import Found, context_of, find
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.runtime import inputs
from onnx_tucker.runtime.held import Held
from onnx_tucker.runtime.inputs import Inputs
from onnx_tucker.runtime.memory import Memory
from onnx_tucker.runtime.reference import Reference
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line, memory, run_within
from onnx_tucker.runtime.timing import Stopwatch
from onnx_tucker.settings import Settings

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how many steps are done, and how many there are."""

RANDOM_FEEDS, HEAVY = 4, 1e9
"""Draws of noise that outputs are compared on, and multiply-accumulates from which on one draw has to do."""
KEY_SETTINGS = (
    "seed threads include exclude op_types flops input_shape dim dequantize refactorize freeze_initializer_inputs"
).split()
"""The settings that errors of nodes and of models may depend on."""
BATCH_VALUE_BYTES = 2**28
"""What any value of a batch may take; a session holds several of them."""
WANTED_BYTES = 2**29
"""What may be held of what nodes are to give."""
FOLDS = 3
"""Parts of the data, at most, that are kept for checks in turn."""
PATIENCE = 3.0
"""Seconds that any model may take to run, besides its multiplications."""
SLOWEST = 1e8
"""Multiply-accumulates a second, far fewer than any machine does."""
LONGEST = 3600.0
"""Seconds that no model may take."""


@dataclass(frozen=True, eq=False)
class Job:
    """What the steps of the pipeline share; nothing in it changes.

    Attributes:
        settings: the user's options.
        original: the input model.
        model: the same with its functions inlined, if the user asked for it; external data is not read into it.
        folder: what the model's external data is relative to.
        data_files: the files there that hold some of its weights.
        content: the model as bytes.
        size: bytes of all files of the input model.
        session: a session on it, or None where onnxruntime cannot run it.
        context: shapes, uses and constants of the main graph.
        found: all weight-bearing nodes.
        inputs: what factors are fitted to and outputs are compared on, or None where nothing can be run.
        reference: the model's outputs on all of them, or None where nothing can be run.
        wanted: what the nodes are to give where factors are fitted; see `rows.Wanted`.
        timed_feed: what the whole model is timed on, or None where nothing can be run.
        memory: of what this run and earlier ones have measured.
        stopwatch: times models.
        progress: is told how far it is.
    """

    settings: Settings
    original: onnx.ModelProto
    model: onnx.ModelProto
    folder: Path
    data_files: frozenset[Path]
    content: bytes
    size: int
    session: ort.InferenceSession | None
    context: Context
    found: list[Found]
    inputs: Inputs | None
    reference: Reference | None
    wanted: Held[Any]
    timed_feed: Feed | None
    memory: Memory
    stopwatch: Stopwatch
    progress: Progress

    @cached_property
    def fingerprint(self) -> str:
        """Of the model, without what is in other files."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def folds(self) -> list[Job]:
        """The same run on parts of the data, each of which is kept for checks once; empty where there is only one."""
        if self.session is None or self.inputs is None:
            return []
        parts = inputs.folds(self.inputs, FOLDS)
        known = ((part, Reference(self.session, part.feeds), Held[Any](WANTED_BYTES)) for part in parts)
        return [replace(self, inputs=part, reference=outputs, wanted=wanted) for part, outputs, wanted in known]

    @property
    def apart(self) -> bool:
        """Whether weights of the result go to a data file."""
        return bool(self.settings.save_as_external_data or self.data_files)

    @property
    def cost(self) -> str:
        """What models are to have little of: time if the whole model is timed, else FLOPs."""
        return "time" if self.settings.benchmark and self.timed_feed is not None else "flops"

    def key(self, *parts: object) -> str | None:
        """A key for `memory` of what follows from the model, the data, the settings and these parts, in this version.

        None where weights are in other files, which may change.
        """
        if self.data_files or self.settings.statistics is not None:
            return None
        data = self.inputs.digest if self.inputs is not None and self.inputs.kind == "data" else None
        settings = [getattr(self.settings, name) for name in KEY_SETTINGS]
        return str(joblib.hash((version("onnx-tucker"), ort.__version__, self.fingerprint, data, settings, parts)))


def prepare(source: onnx.ModelProto | Path, settings: Settings, progress: Progress) -> Job:
    """Reads the model and the data, and looks the graph over.

    Raises:
        ModelError: the model cannot be read, or it is invalid and onnxruntime cannot run it either.
        DataError: the data does not fit the model.
        UsageError: an option names something that the model does not have.
    """
    original, folder, data_files = _load(source)
    model = _inlined(original) if settings.inline_functions and original.functions else original
    content = model.SerializeToString(deterministic=True)
    machine = Machine(settings.threads, Path(settings.custom_op_lib) if settings.custom_op_lib else None)
    machine.check()
    wanted = bool(settings.data) or settings.eval is not None
    session = _session(model, content, folder, machine, wanted)
    parts, labels = _samples(session, settings)
    data = inputs.from_data(parts, session, labels=labels) if parts and session is not None else None
    sample = inputs.sample_shapes(data, session) if data is not None and session is not None else {}
    given = {name: tuple(shape) for name, shape in settings.input_shape.items()}
    known = shapes.infer(model, folder, given, settings.dim, sample)
    if session is not None and data is not None:
        known |= _observed(model, folder, session, machine, known, settings.seed, data)
    context = context_of(
        model,
        known,
        shapes.declared(model, folder),
        folder,
        freeze_initializer_inputs=settings.freeze_initializer_inputs,
        dequantize=settings.dequantize,
    )
    found = find(model, context, refactorize=settings.refactorize)
    if data is not None and session is not None:
        data = _smaller(session, data, _value_bytes(model, known, sample))
        if data is None:
            data = inputs.from_data(parts, session, labels=labels, apart=False)
    ran = _runnable(session, data, known, settings.seed, found)
    remembered = Memory(Path(settings.cache) if settings.cache else None)
    return Job(
        settings=settings,
        original=original,
        model=model,
        folder=folder,
        data_files=data_files,
        content=content,
        size=_size(source) + sum(path.stat().st_size for path in data_files),
        session=session,
        context=context,
        found=found,
        inputs=ran,
        reference=Reference(session, ran.feeds) if session is not None and ran is not None else None,
        wanted=Held(WANTED_BYTES),
        timed_feed=_timed(session, ran, known, settings.seed),
        memory=remembered,
        stopwatch=Stopwatch(machine, remembered),
        progress=progress,
    )


def _load(source: onnx.ModelProto | Path) -> io.Loaded:
    if isinstance(source, Path):
        return io.load(source)
    missing = io.external_tensors(source)
    if missing:
        raise ModelError(f"The values of {missing[0].name!r} are in a file; load the model with its external data.")
    if weight_bytes(source) > LIMIT:
        raise ModelError("The model has more than 2 GB of weights; save it with external data and give its path.")
    return io.Loaded(source, Path(), frozenset())


def _size(source: onnx.ModelProto | Path) -> int:
    return source.stat().st_size if isinstance(source, Path) else source.ByteSize()


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except CHECK_FAILURES as error:
        raise ModelError(f"The functions of the model cannot be inlined: {first_line(error)}") from error


def _session(
    model: onnx.ModelProto, content: bytes, folder: Path, machine: Machine, wanted: bool
) -> ort.InferenceSession | None:
    """A session on the whole model; None where onnxruntime cannot run it, or is better not asked to.

    A model of more than 2 GB is run only if it is `wanted`: all its weights are in memory then, at least once.
    """
    large = weight_bytes(model) > LIMIT and not wanted
    reason = "it has more than 2 GB of weights; give --data to have all of them in memory and run it"
    fault = fatal(model)
    try:
        if not large and not fault:
            return machine.session(content, folder)
    except FAILURES as error:
        reason = first_line(error)
    fault = fault or invalid(model, folder)
    if fault:
        raise ModelError(f"The model is not valid: {fault}")
    what = "The model is not run as a whole" if large else "onnxruntime cannot run the model"
    logger.warning("%s, so its outputs are not compared: %s", what, reason)
    return None


def _samples(
    session: ort.InferenceSession | None, settings: Settings
) -> tuple[list[dict[str, NDArray[Any]]], list[NDArray[Any]]]:
    """The parts of the user's data, and the labels in each of them."""
    read = inputs.read_data(settings.data_paths) if settings.data_paths else settings.data_arrays
    parts = [{name: np.asarray(array) for name, array in part.items()} for part in read if part]
    if settings.labels is not None and any(settings.labels not in part for part in parts):
        raise DataError(f"The data has no array {settings.labels!r} of labels.")
    labels = [part.pop(settings.labels) for part in parts] if settings.labels is not None else []
    if parts and session is None:
        raise DataError("onnxruntime cannot run the model, so --data is of no use; see the reason above.")
    return parts, labels


def _smaller(session: ort.InferenceSession, data: Inputs, value_bytes: float) -> Inputs | None:
    """The data in batches of which no value is very large; None where the model does not run on those for checks."""
    smaller = inputs.split(data, session, max(1, int(BATCH_VALUE_BYTES / max(value_bytes, 1.0))))
    try:
        if smaller.held_out or smaller is not data:
            session.run(None, dict(smaller.check.feeds[0]))
    except FAILURES as error:
        logger.info("no samples are kept apart, as the model does not run on those: %s", first_line(error))
        return None
    return smaller


def _value_bytes(model: onnx.ModelProto, known: shapes.Shapes, sample: shapes.Shapes) -> float:
    """Bytes of the largest value that nodes give for a sample, as far as shapes are known."""
    batch = max((known[name][0] for name in sample if known.get(name)), default=1)
    made = (known.get(name) for node in model.graph.node for name in node.output)
    return 4 * max((math.prod(shape) for shape in made if shape), default=0) / max(batch, 1)


def _observed(
    model: onnx.ModelProto,
    folder: Path,
    session: ort.InferenceSession,
    machine: Machine,
    known: shapes.Shapes,
    seed: int,
    data: Inputs,
) -> shapes.Shapes:
    """The shapes that only a run tells, on the sample that is counted."""
    missing = observed.unknown(model, known)
    if not missing:
        return {}
    return observed.shapes(model, folder, machine, _counted(session, data, known, seed), missing)


def _patience(found: list[Found]) -> float:
    """Seconds after which a model that runs on noise is taken never to end; no machine is that slow."""
    return min(PATIENCE + _macs(found) / SLOWEST, LONGEST)


def _macs(found: list[Found]) -> int:
    return sum(f.reading.layer.macs for f in found if f.reading.layer)


def _runnable(
    session: ort.InferenceSession | None, data: Inputs | None, known: shapes.Shapes, seed: int, found: list[Found]
) -> Inputs | None:
    """The data, else noise, if the model runs on it; None where there is nothing that it runs on."""
    if session is None:
        return None
    largest = 4 * max(map(math.prod, known.values()), default=0)
    if data is None and largest > memory() / 4:
        logger.warning(
            "The model is not run, as one of its values would take %.3g GB; give --data or a smaller --input-shape.",
            largest / 1e9,
        )
        return None
    try:
        chosen = data or inputs.random(session, known, seed, RANDOM_FEEDS if _macs(found) < HEAVY else 1)
        run_within(session, chosen.fit.feeds[0], _patience(found) if data is None else None)
    except UsageError as error:
        logger.warning("Outputs are not compared and the model is not timed. %s", error)
        return None
    except FAILURES as error:
        if data is not None:
            raise DataError(f"The model does not run on the data: {first_line(error)}") from error
        logger.warning(
            "The model does not run on random inputs, so give --data to compare and time it: %s", first_line(error)
        )
        return None
    return chosen


def _timed(session: ort.InferenceSession | None, ran: Inputs | None, known: shapes.Shapes, seed: int) -> Feed | None:
    """An input of the shape that is counted, from the data where it has enough samples, if the model runs on it."""
    if session is None or ran is None:
        return None
    first, part = ran.fit.feeds[0], _counted(session, ran, known, seed)
    if all(part[name].shape == first[name].shape for name in first):
        return part  # on which it has run already
    try:
        session.run(None, dict(part))
    except FAILURES as error:
        logger.info("the model is timed on a whole batch, as it does not run on the counted shape: %s", error)
        return first
    return part


def _counted(session: ort.InferenceSession, ran: Inputs, known: shapes.Shapes, seed: int) -> Feed:
    """An input of the shape that is counted, from the data where it has enough samples, else noise."""
    part = {name: array[: known[name][0]] if known.get(name) else array for name, array in ran.fit.feeds[0].items()}
    if any(array.shape != known.get(name, array.shape) for name, array in part.items()):
        return inputs.random(session, known, seed, 1).fit.feeds[0]
    return part
