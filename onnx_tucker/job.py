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
import onnxruntime as ort

from onnx_tucker.adjoints.influence import Influences
from onnx_tucker.errors import DataError
from onnx_tucker.graph.check import invalid
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.find import Found, macs
from onnx_tucker.graph.view import View
from onnx_tucker.runtime import batches
from onnx_tucker.runtime.batches import Inputs
from onnx_tucker.runtime.held import Held
from onnx_tucker.runtime.memory import PASSING, Memory
from onnx_tucker.runtime.reference import Reference
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line
from onnx_tucker.runtime.timing import Stopwatch
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from onnx_tucker.version import __version__

logger = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Is told what is being done, how many steps are done, and how many there are."""
WRITTEN = "written"
"""What it is told when all outputs are in their places."""

NOT_FINITE = "values that are not finite"
"""What a user is told of once."""

KEY_SETTINGS = (
    "seed threads include exclude op_types flops input_shape dim dequantize refactorize freeze_initializer_inputs "
    "custom_op_lib"
).split()
"""The settings that errors of nodes and of models may depend on."""
WANTED_BYTES, CHAIN_BYTES = 2**30, 2**28
"""What may be held of what nodes are to give, and of chains that were fitted."""
ROUGH_ROWS = 10_000
"""Positions of a node, at most, that a rough pass fits to."""
FOLDS, FOLDED_MACS = 3, 3e10
"""Parts of the data, at most, that are kept for checks in turn; and multiplications of a rough pass up to which there
are several of them, and not just one.

Of 48 images for a network of 54 layers and 1.1e9 multiplications each, a pass takes 1.6e11. With three passes for each
trial the whole run took 680 s, with one 380 s, for about as close a model: on other images scores erred .23 for .25,
probabilities .057 for .043. Of 26 pieces of music and 3.9e10, the same model took 128 s with three, and 83 s with one.
"""


@dataclass(frozen=True, eq=False)
class Job:
    """What the steps of the pipeline share; results and measurements are added to what it holds, nothing else changes.

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
        wanted: what the nodes are to give where factors are fitted; see `fitting.rows.Wanted`.
        chains: those fitted so far, by all that they follow from; see `fitting.sequential.Fitting`.
        timed_feed: what the whole model is timed on, or None where nothing can be run.
        influences: how much errors of nodes' outputs count, or None where there is no data.
        memory: of what this run and earlier ones have measured.
        stopwatch: times models.
        progress: is told how far it is.
        warned: what was said already: of which nodes some of the data is not finite, and which patterns match no node.
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

    @property
    def machine(self) -> Machine:
        """How onnxruntime is run."""
        return self.stopwatch.machine

    def open(self, content: bytes, *, arena: bool = True) -> ort.InferenceSession:
        """A session on a model that has the original's data files; see `Machine.session`."""
        return self.machine.session(content, self.folder, arena=arena)

    @cached_property
    def fingerprint(self) -> str:
        """Of the model, without what is in other files."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def view(self) -> View:
        """The main graph, as the nodes behind a value are looked up in it."""
        return View.of(self.model, self.context)

    @cached_property
    def fault(self) -> str | None:
        """Why the model does not pass onnx's checker, which is asked once a result does not; None if it does."""
        fault = invalid(self.model, self.folder)
        if fault:
            logger.warning("Neither the input nor the result passes onnx's checker: %s", fault)
        return fault

    def require_runs(self) -> None:
        """Makes sure that the model runs on all samples that are fitted to; it was seen to on some.

        Raises:
            DataError: it does not.
        """
        assert self.session is not None
        assert self.inputs is not None
        try:
            for feed in self.inputs.fit.feeds:
                self.session.run(None, dict(feed))
        except FAILURES as error:
            raise DataError(f"The model does not run on all of the data: {first_line(error)}") from error

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
            if found.is_site:
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
        """How many samples the model can be run on with so many multiplications, as far as these are known."""
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
        """A key, see `key`, of what follows from what nodes are to become, by label."""
        return self.key(what, sorted((label, str(candidate)) for label, candidate in planned.items()), *parts)


def silent(what: str, done: int, of: int) -> None:
    """Tells nobody how far the work is."""
