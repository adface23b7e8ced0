"""The last step of compression: trains the weights of a factorised model until it does what the original does.

The original is the teacher, so that inputs without labels suffice. Only values of weights and biases change.
"""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tucker.course import Course
from onnx_tucker.errors import DataError, ModelError
from onnx_tucker.fitting.walk import Walk
from onnx_tucker.graph.segment import probe
from onnx_tucker.graph.trainable import trainable
from onnx_tucker.job import Job
from onnx_tucker.runtime.batches import Inputs
from onnx_tucker.runtime.inputs import divisible
from onnx_tucker.runtime.session import Feed, cores, cpu_name, run_named
from onnx_tucker.training.later import Extent, Later
from onnx_tucker.training.parts import Part, blocks
from onnx_tucker.training.teachable import (
    UNTRAINABLE,
    alike,
    criterion,
    cut,
    first_samples,
    learnable,
    require_same,
    require_samples,
    up_to,
)
from onnx_tucker.version import __version__

if TYPE_CHECKING:
    from onnx_tucker.extras.training import Task

logger = logging.getLogger(__name__)

Weights = Mapping[str, NDArray[Any]]
"""Values of initializers, by name."""
Score = Callable[[onnx.ModelProto], float]
"""The user's score of a model."""

SHARE = 0.1
"""The share of the time that scores may take which are only shown."""


def tuned(job: Job, model: onnx.ModelProto, course: Course, score: Score | None) -> onnx.ModelProto:
    """A copy of a model with weights that are trained to give what the original gives, or what labels say.

    Args:
        job: the run on the original, with data.
        model: takes the same inputs and has the same outputs.
        course: how to train; an interrupted run goes on from its last epoch, if there is a cache.
        score: the user's of a model, to be shown.

    Returns:
        The copy; the model itself where none comes closer on the samples kept apart.

    Raises:
        ModelError: it has nothing to train, or torch does not compute what onnxruntime does.
        DataError: the labels fit no output.
    """
    require_samples(job)
    assert job.inputs is not None
    assert job.session is not None
    fixed = not divisible(job.session, job.inputs.fit)
    inputs = _finite(job.inputs, fixed)
    job = replace(job, inputs=inputs)
    training: Any = importlib.import_module("onnx_tucker.extras.training")
    names = trainable(model)
    if not names:
        raise ModelError(UNTRAINABLE)
    look = first_samples(inputs.check, fixed=fixed)
    outputs = learnable(job, model, look)
    hidden = alike(job, model, _hidden(job, outputs), look)
    parts = blocks(model, names, [*hidden, *outputs]) if course.blocks else [Part(names, (), outputs, hidden)]
    result, course = model, replace(course, minutes=course.minutes / len(parts))
    with training.settled(job.settings.threads or cores()):
        for number, part in enumerate(parts):
            what = f"block {number + 1} of {len(parts)}, " if course.blocks else ""
            watch = _Watch(job, result, what, None if course.blocks else score)
            result = _trained(job, result, part, course, watch, look, fixed=fixed)
    return result


def _finite(inputs: Inputs, fixed: bool) -> Inputs:
    """Samples without what would spoil all weights: numbers that are not finite.

    Raises:
        DataError: there are none.
    """
    fit, check = (part.finite(whole=fixed) for part in (inputs.fit, inputs.check))
    apart = (inputs.check.samples, check.samples) if inputs.held_out else (0, 0)
    before, after = inputs.fit.samples + apart[0], fit.samples + apart[1]
    if before == after:
        return inputs
    where = "them or in their batch" if fixed else "them"
    logger.warning(
        "%d of %d samples are left out of the training, as there are numbers in %s that are not finite.",
        before - after,
        before,
        where,
    )
    if not fit.samples:
        raise DataError(f"No samples are left to train on: there are numbers in {where} that are not finite.")
    return replace(inputs, fit=fit, check=check if inputs.held_out and check.samples else fit)


class _Watch:
    """Tells of every epoch how far training is, and the score as often as that takes a tenth of the time at most."""

    def __init__(self, job: Job, model: onnx.ModelProto, what: str, score: Score | None) -> None:
        self._job, self._model, self._what, self._score = job, model, what, score
        self._began, self._spent = time.monotonic(), 0.0
        self._least, self._scored = math.inf, ""

    def __call__(self, done: int, epochs: int, loss: float, error: float, best: Weights) -> None:
        better, self._least = error < self._least, min(error, self._least)
        if self._score is not None and better and self._spent <= SHARE * (time.monotonic() - self._began):
            began = time.monotonic()
            self._scored = f", score {self._score(_with_weights(self._model, best)):.6g}"
            self._spent += time.monotonic() - began
        told = f"loss {loss:.4g}, kept apart {error:.4g}{self._scored}"
        self._job.progress(f"fine-tuning, {self._what}{told}", done, epochs)
        logger.info("%sepoch %d: %s", self._what, done, told)


def _trained(
    job: Job, model: onnx.ModelProto, part: Part, course: Course, watch: _Watch, look: Feed, *, fixed: bool
) -> onnx.ModelProto:
    """A copy of a model with other weights of a part of it; the model itself where none are better."""
    assert job.inputs is not None
    training: Any = importlib.import_module("onnx_tucker.extras.training")
    fit, check = job.inputs.fit, job.inputs.check
    before = job.open(probe(model, part.takes)) if part.takes else None

    def lead(feed: Feed) -> Feed:
        return {**feed, **run_named(before, feed)} if before is not None else feed

    known = lead(look)
    piece = up_to(model, known, [*part.gives, *part.hidden]) if course.blocks or cut(job, course) else model
    network = training.Network(piece, part.weights, training.device(), job.folder)
    require_same(job, piece, network, known, [*part.gives, *part.hidden])
    task = training.Task(
        network,
        _teacher(job, [*part.gives, *part.hidden]),
        part.gives,
        part.hidden,
        fit,
        check,
        fixed=fixed,
        lead=lead,
        criterion=None if course.loss == "distill" else criterion(job, model, look),
        distilled=course.distilled,
    )
    key, left = _key(job, model, part, course), course
    if not course.blocks:
        task, left, key = _shortened(job, model, task, part.weights, course, key)
    state = Path(job.settings.cache or "") / "trained" / f"{key}.pt" if key is not None else None
    trained = training.train(task, left, watch, state)
    logger.info("error %.4g before, %.4g after %d epochs", trained.before, trained.after, trained.epochs)
    return _with_weights(model, trained.weights) if trained.after < trained.before else model


def _teacher(job: Job, names: Sequence[str]) -> Callable[[Feed], dict[str, Any]]:
    """Gives values of the original."""
    assert job.inputs is not None
    session = job.open(Walk(job, job.inputs.fit.feeds).model(names))
    asked = {value.name for value in session.get_inputs()}
    return lambda feed: run_named(session, {name: feed[name] for name in asked})


def _shortened(
    job: Job, model: onnx.ModelProto, task: Task, weights: Sequence[str], course: Course, key: str | None
) -> tuple[Task, Course, str | None]:
    """The training that there is time for, the course with the time that is left, and the key of both."""
    began = time.perf_counter()
    later = Later(job, model, task, weights, partial(_teacher, job))
    chosen = None if key is None else str(joblib.hash((key, job.settings.threads, cpu_name())))  # times differ
    choice = _known(job, chosen)
    if choice is None:
        choice = later.choice(course)
        job.memory.remember(chosen, choice)
    shortened = later.task(choice)
    left = replace(course, minutes=max(0.0, course.minutes - (time.perf_counter() - began) / 60))
    return shortened, left, key and str(joblib.hash((key, choice)))


def _known(job: Job, key: str | None) -> Extent | None:
    """What an earlier run chose to train, if that is remembered."""
    recalled = job.memory.recall(key)
    return None if recalled is None else Extent(*recalled.value)


def _key(job: Job, model: onnx.ModelProto, part: Part, course: Course) -> str | None:
    """A key of what training follows from; None without a cache, or where weights are in files, which may change."""
    if job.settings.cache is None or job.inputs is None or job.data_files:
        return None
    content, labels = model.SerializeToString(deterministic=True), [job.inputs.fit.labels, job.inputs.check.labels]
    versions = [__version__, version("torch"), version("onnx2torch")]
    return str(joblib.hash((job.fingerprint, content, job.inputs.digest, labels, part, course, versions)))


def _hidden(job: Job, outputs: Collection[str]) -> list[str]:
    """What the original's linear nodes give, but for the outputs."""
    here = [found.output for found in job.found if found.place.scope.graph is job.model.graph]
    return [name for name in here if name not in outputs]


def _with_weights(model: onnx.ModelProto, weights: Weights) -> onnx.ModelProto:
    """A copy of a model with other values for some of its initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.from_array(weights[tensor.name])
            for field in ("float_data", "external_data", "data_location"):
                tensor.ClearField(field)
            tensor.raw_data = values.raw_data
    return result
