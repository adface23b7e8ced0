"""How a run begins: the model and the data are read, and the graph is looked over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.inliner
import onnxruntime as ort

from onnx_tucker import feeds, judged, observed
from onnx_tucker.adjoints.influence import Influences
from onnx_tucker.errors import ModelError, UsageError
from onnx_tucker.graph import io, shapes
from onnx_tucker.graph.check import FAILURES as CHECK_FAILURES
from onnx_tucker.graph.check import LIMIT, broken, fatal, merges, weight_bytes
from onnx_tucker.graph.find import context_of, find
from onnx_tucker.graph.view import View
from onnx_tucker.job import CHAIN_BYTES, NOT_FINITE, WANTED_BYTES, Job, Progress
from onnx_tucker.reached import reached
from onnx_tucker.runtime import inputs
from onnx_tucker.runtime.batches import Inputs
from onnx_tucker.runtime.held import Held
from onnx_tucker.runtime.memory import Memory
from onnx_tucker.runtime.reference import Reference
from onnx_tucker.runtime.session import FAILURES, Machine, first_line, operators
from onnx_tucker.runtime.timing import Stopwatch
from onnx_tucker.settings import Settings

logger = logging.getLogger(__name__)

Model = onnx.ModelProto | str | Path
"""What users give: a model, or the path of one."""
Source = onnx.ModelProto | Path
"""A model as the steps of a run take it, with a path that is one."""
TRIED = 8
"""Inputs that shapes are read off, as long as some of these are empty."""
DERIVED_MACS = 5e10
"""Multiplications of running the model for derivatives of its outputs."""


def source_of(model: Model) -> Source:
    """A model, or its path as one.

    Raises:
        UsageError: it is neither.
    """
    if not isinstance(model, Model):
        raise UsageError(f"A model is an onnx.ModelProto or a path, not a {type(model).__name__}.")
    return model if isinstance(model, onnx.ModelProto) else Path(model)


def prepare(source: Source, settings: Settings, progress: Progress, *, again: bool = False) -> Job:
    """Reads the model and the data, and looks the graph over.

    Args:
        source: the model.
        settings: the user's options.
        progress: is told how far it is.
        again: whether samples of the data that are the same as one before them are kept.

    Raises:
        ModelError: the model cannot be read, or it is invalid and onnxruntime cannot run it either.
        DataError: the data does not fit the model.
        UsageError: an option names something that the model does not have.
    """
    original, folder, data_files = load(source)
    model = _inlined(original) if settings.inline_functions and original.functions else original
    content = model.SerializeToString(deterministic=True)
    machine = _machine(model, settings)
    session = _session(model, content, folder, machine, bool(settings.data) or settings.eval is not None)
    samples = feeds.read(session, model, settings)
    data = None
    if session is not None and samples.parts:
        told, ranks = samples.labels, samples.any_rank
        data = inputs.from_data(samples.parts, session, labels=told, any_rank=ranks, again=again)
    sample = inputs.sample_shapes(data) if data is not None else {}
    known = _shapes(model, folder, settings, session, machine, data, sample)
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
        data = feeds.batched(session, samples, data, feeds.value_bytes(model, known, sample))
    ran = feeds.runnable(session, data, known, settings.seed, found)
    if session is not None and ran is not None and ran.kind == "data":
        found = reached(model, found, ran.feeds, machine, folder)
    view = View.of(model, context)
    reference = Reference(session, ran.feeds) if session is not None and ran is not None else None
    judges = reference
    if reference is not None and ran is not None and ran.kind == "data":
        judges = judged.judged(reference, view, found, ran.feeds, machine, folder)
        parts = (name for values in judges.parts.values() for name in values)
        context = replace(context, seen=frozenset(parts) - view.outputs())
    remembered = Memory(Path(settings.cache) if settings.cache else None)
    job = Job(
        settings=settings,
        original=original,
        model=model,
        folder=folder,
        data_files=data_files,
        content=content,
        size=size(source, data_files),
        session=session,
        context=context,
        found=found,
        inputs=ran,
        reference=reference,
        judged=judges,
        wanted=Held(WANTED_BYTES),
        chains=Held(CHAIN_BYTES),
        timed_feed=feeds.timed(session, ran, known, settings.seed),
        memory=remembered,
        stopwatch=Stopwatch(machine, remembered),
        progress=progress,
    )
    if session is None or ran is None or ran.kind != "data":
        return job
    _tell_of_spoilt(job, ran)
    most, ends = job.samples_for(DERIVED_MACS), judges.names if judges is not None else ()
    return replace(
        job, influences=Influences(view, found, ends, ran.fit, session, machine, folder, settings.seed, most, progress)
    )


def _tell_of_spoilt(job: Job, data: Inputs) -> None:
    """Warns of samples with numbers that are not finite."""
    parts = (data.fit, data.check) if data.held_out else (data.fit,)
    spoilt = sum(part.spoilt for part in parts)
    if spoilt:
        job.warned.add(NOT_FINITE)
        logger.warning(
            "%d of %d samples of the data have NaN or infinite numbers: what is not finite for that is left out where "
            "factors are fitted and outputs are compared.",
            spoilt,
            sum(part.samples for part in parts),
        )


def _shapes(
    model: onnx.ModelProto,
    folder: Path,
    settings: Settings,
    session: ort.InferenceSession | None,
    machine: Machine,
    data: Inputs | None,
    sample: shapes.Shapes,
) -> shapes.Shapes:
    """Shapes of the model's values: those that are inferred, and those that only a run tells."""
    given = {name: tuple(shape) for name, shape in settings.input_shape.items()}
    known = shapes.infer(model, folder, given, settings.dim, sample)
    if session is None:
        return known
    missing = observed.unknown(model, known)
    if not missing or (data is None and not observed.follow(model, missing)):
        return known
    if data is None:
        feed = feeds.tried(session, known, settings.seed)
        return known | observed.alike(model, folder, machine, feed, missing) if feed else known
    for number in range(min(TRIED, data.fit.samples)):  # of some samples nothing may be selected
        feed = feeds.counted(session, data, known, settings.seed, number)
        found = observed.shapes(model, folder, machine, feed, missing)
        known = known | {name: shape for name, shape in found.items() if 0 not in shape}
        missing = [name for name in found if name not in known]
        if not missing:
            break
    return known


def load(source: Source) -> io.Loaded:
    """A model that may be in memory already, and where its external data is.

    Raises:
        ModelError: it cannot be read, or the one in memory lacks values or is too large.
    """
    if isinstance(source, Path):
        return io.load(source)
    missing = io.external_tensors(source)
    if missing:
        raise ModelError(f"The values of {missing[0].name!r} are in a file; load the model with its external data.")
    if weight_bytes(source) > LIMIT:
        raise ModelError("The model has more than 2 GB of weights; save it with external data and give its path.")
    return io.Loaded(source, Path(), frozenset())


def size(source: Source, data_files: Iterable[Path]) -> int:
    """Bytes of a model with its external data."""
    own = source.stat().st_size if isinstance(source, Path) else source.ByteSize()
    return own + sum(path.stat().st_size for path in data_files)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except CHECK_FAILURES as error:
        raise ModelError(f"The functions of the model cannot be inlined: {first_line(error)}") from error


def _machine(model: onnx.ModelProto, settings: Settings) -> Machine:
    """How sessions are run, by the options.

    Raises:
        TuckerError: the library with custom operators cannot be loaded.
    """
    library = Path(settings.custom_op_lib).resolve() if settings.custom_op_lib else None
    machine = Machine(settings.threads, library)
    machine.check()
    return careful(machine, model)


def careful(machine: Machine, model: onnx.ModelProto) -> Machine:
    """How sessions on a model run, so that onnxruntime survives them."""
    return replace(machine, merging=merges(model))


def _session(
    model: onnx.ModelProto, content: bytes, folder: Path, machine: Machine, wanted: bool
) -> ort.InferenceSession | None:
    """A session on the whole model; None where onnxruntime cannot run it, or is better not asked to.

    A model of more than 2 GB is run only if it is `wanted`: all its weights are in memory then, at least once.
    """
    large = weight_bytes(model) > LIMIT and not wanted
    reason = "it has more than 2 GB of weights; give --data or --eval to have all of them in memory and run it"
    fault = fatal(model)
    if fault:
        raise ModelError(fault)
    try:
        if not large:
            return machine.session(content, folder)
    except FAILURES as error:
        reason = first_line(error)
    fault = broken(model, folder, operators())
    if fault:
        raise ModelError(f"The model is not valid: {fault}")
    what = "The model is not run as a whole" if large else "onnxruntime cannot run the model"
    logger.warning("%s, so its outputs are not compared: %s", what, reason)
    return None
