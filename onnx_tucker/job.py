"""One run of the tool: the model and everything that is known about it before any choice is made."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import joblib
import onnx
import onnx.inliner
import onnxruntime as ort

from onnx_tucker import feeds, judged, observed
from onnx_tucker.errors import ModelError
from onnx_tucker.graph import io, shapes
from onnx_tucker.graph.check import FAILURES as CHECK_FAILURES
from onnx_tucker.graph.check import LIMIT, broken, fatal, invalid, merges, weight_bytes
from onnx_tucker.graph.elementwise import View
from onnx_tucker.graph.find import Found, context_of, find, macs
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.influence import Influences
from onnx_tucker.runtime import batches, inputs
from onnx_tucker.runtime.batches import Inputs
from onnx_tucker.runtime.held import Held
from onnx_tucker.runtime.memory import PASSING, Memory
from onnx_tucker.runtime.reference import Reference
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line, operators
from onnx_tucker.runtime.timing import Stopwatch
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate, Site
from onnx_tucker.version import __version__

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how many steps are done, and how many there are."""
Source = onnx.ModelProto | str | Path
"""A model, or the path of one."""

KEY_SETTINGS = (
    "seed threads include exclude op_types flops input_shape dim dequantize refactorize freeze_initializer_inputs "
    "custom_op_lib"
).split()
"""The settings that errors of nodes and of models may depend on."""
WANTED_BYTES, CHAIN_BYTES = 2**30, 2**28
"""What may be held of what nodes are to give, and of chains that were fitted."""
DERIVED_MACS = 5e10
"""Multiplications of running the model for derivatives of its outputs."""
ROUGH_ROWS = 10_000
"""Positions of a node, at most, that a rough pass fits to."""
FOLDS, FOLDED_MACS = 3, 2e11
"""Parts of the data, at most, that are kept for checks in turn; and multiplications of a rough pass up to which there
are several of them, and not just one.

Of 52 images for a network of 54 layers and 1.1e9 multiplications each, a pass takes 2.2e11, and three passes for each
trial took two thirds of the time of the whole run.
"""


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
        judged: the values that models are judged by while they are searched for: see `judged`.
        wanted: what the nodes are to give where factors are fitted; see `rows.Wanted`.
        chains: those fitted so far, by all that they follow from; see `fitting.Fitting`.
        timed_feed: what the whole model is timed on, or None where nothing can be run.
        influences: how much errors of nodes' outputs count, or None where there is no data.
        memory: of what this run and earlier ones have measured.
        stopwatch: times models.
        progress: is told how far it is.
        warned: the nodes of which it was said that not all of their data is finite, and patterns that match none.
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
    judged: Reference | None
    wanted: Held[Any]
    chains: Held[Any]
    timed_feed: Feed | None
    memory: Memory
    stopwatch: Stopwatch
    progress: Progress
    influences: Influences | None = None
    warned: set[str] = field(default_factory=set)

    @cached_property
    def fingerprint(self) -> str:
        """Of the model, without what is in other files."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def fault(self) -> str | None:
        """Why the model does not pass onnx's checker, which is asked once a result does not; None if it does."""
        fault = invalid(self.model, self.folder)
        if fault:
            logger.warning("Neither the input nor the result passes onnx's checker: %s", fault)
        return fault

    @cached_property
    def folds(self) -> list[Job]:
        """The same run on parts of the data, each of which is kept for checks once; empty where there is only one.

        Where a rough pass takes long, the first of them only.
        """
        if self.session is None or self.inputs is None:
            return []
        parts = batches.folds(self.inputs, FOLDS)[: None if self._rough_macs <= FOLDED_MACS else 1]
        try:
            for part in parts[:1]:
                self.session.run(None, dict(part.check.feeds[0]))
        except FAILURES as error:
            logger.info("the model does not run on parts of the data: %s", first_line(error))
            return []
        return [
            replace(
                self,
                inputs=part,
                reference=self.reference and self.reference.on(part.feeds),
                judged=self.judged and self.judged.on(part.feeds),
                wanted=Held(WANTED_BYTES // FOLDS),
                chains=Held(CHAIN_BYTES // FOLDS),
                influences=self.influences and self.influences.of_samples(part.fit, len(parts)),
            )
            for part in parts
        ]

    @property
    def _rough_macs(self) -> int:
        """Multiplications of a rough pass: of running the model, and of the moments of what all nodes see."""
        samples = self.inputs.fit.samples if self.inputs is not None else 0
        total = samples * self.sample_macs
        for found in self.found:
            if isinstance(found.reading.found, Site):
                stage = found.site.stage
                width, rows = stage.inp * stage.window.volume, min(ROUGH_ROWS, samples * self.positions([found]))
                total += stage.groups * rows * width * min(rows, width)
        return total

    def positions(self, nodes: Iterable[Found]) -> int:
        """Positions of a sample that each of some nodes sees at least; 1 where that is not known."""
        seen = [found.reading.layer for found in nodes]
        return max(1, min((layer.positions if layer else 1 for layer in seen), default=1) // self.counted_samples)

    @cached_property
    def sample_macs(self) -> int:
        """Multiplications of all nodes for a sample, as far as they are known."""
        return macs(self.found) // self.counted_samples

    def samples_for(self, multiplications: float) -> int:
        """Samples that running the model on takes no more than so many multiplications by, as far as they are known."""
        return int(multiplications / max(self.sample_macs, 1))

    @cached_property
    def counted_samples(self) -> int:
        """Samples for which nodes are counted."""
        shapes_ = (self.context.shapes.get(value.name) for value in (self.session.get_inputs() if self.session else ()))
        return max((shape[0] for shape in shapes_ if shape), default=1) or 1

    @property
    def apart(self) -> bool:
        """Whether weights of the result go to a data file."""
        return bool(self.settings.save_as_external_data or self.data_files)

    @property
    def cost(self) -> str:
        """What models are to have little of: time if the whole model is timed, else FLOPs."""
        return "time" if self.settings.benchmark and self.timed_feed is not None else "flops"

    def key(self, *parts: object) -> str:
        """A key for `memory` of what follows from the model, the data, the settings and these parts, in this version.

        Where something of it is in other files, which may change, what it is the key of does not outlive the run.
        """
        passing = PASSING if self.data_files or self.settings.statistics is not None else ""
        data = self.inputs.digest if self.inputs is not None and self.inputs.kind == "data" else None
        settings = [getattr(self.settings, name) for name in KEY_SETTINGS]
        return f"{passing}{joblib.hash((__version__, ort.__version__, self.fingerprint, data, settings, parts))}"

    def planned_key(self, what: str, planned: Mapping[str, Candidate], *parts: object) -> str:
        """The same of what follows from what nodes are to become, by label."""
        return self.key(what, sorted((label, str(candidate)) for label, candidate in planned.items()), *parts)


def source_of(model: Source) -> onnx.ModelProto | Path:
    """A model, or its path as one."""
    return model if isinstance(model, onnx.ModelProto) else Path(model)


def silent(what: str, done: int, of: int) -> None:
    """Tells nobody how far the work is."""


def prepare(source: onnx.ModelProto | Path, settings: Settings, progress: Progress) -> Job:
    """Reads the model and the data, and looks the graph over.

    Raises:
        ModelError: the model cannot be read, or it is invalid and onnxruntime cannot run it either.
        DataError: the data does not fit the model.
        UsageError: an option names something that the model does not have.
    """
    original, folder, data_files = load(source)
    model = _inlined(original) if settings.inline_functions and original.functions else original
    content = model.SerializeToString(deterministic=True)
    machine = Machine(settings.threads, Path(settings.custom_op_lib).resolve() if settings.custom_op_lib else None)
    machine.check()
    machine = careful(machine, model)
    wanted = bool(settings.data) or settings.eval is not None
    session = _session(model, content, folder, machine, wanted)
    samples = feeds.read(session, model, settings)
    data = None
    if session is not None and samples.parts:
        data = inputs.from_data(samples.parts, session, labels=samples.labels, any_rank=samples.any_rank)
    sample = inputs.sample_shapes(data, session) if data is not None and session is not None else {}
    given = {name: tuple(shape) for name, shape in settings.input_shape.items()}
    known = shapes.infer(model, folder, given, settings.dim, sample)
    missing = observed.unknown(model, known) if session is not None else []
    if session is not None and missing and (data is not None or observed.follow(model, missing)):
        feed = (
            feeds.counted(session, data, known, settings.seed) if data else feeds.tried(session, known, settings.seed)
        )
        read = observed.shapes if data else observed.alike
        known |= read(model, folder, machine, feed, missing) if feed else {}
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
    view = View.of(model, context)
    reference = Reference(session, ran.feeds) if session is not None and ran is not None else None
    judges = reference
    if reference is not None and ran is not None and ran.kind == "data":
        judges = judged.judged(reference, view, found, ran.feeds, machine, folder)
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
    most, ends = job.samples_for(DERIVED_MACS), judges.names if judges is not None else ()
    return replace(
        job, influences=Influences(view, found, ends, ran.fit, session, machine, folder, settings.seed, most, progress)
    )


def load(source: onnx.ModelProto | Path) -> io.Loaded:
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


def size(source: onnx.ModelProto | Path, data_files: Iterable[Path]) -> int:
    """Bytes of a model with its external data."""
    own = source.stat().st_size if isinstance(source, Path) else source.ByteSize()
    return own + sum(path.stat().st_size for path in data_files)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=True)
    except CHECK_FAILURES as error:
        raise ModelError(f"The functions of the model cannot be inlined: {first_line(error)}") from error


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
