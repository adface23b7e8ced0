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
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tucker.errors import DataError, ModelError, TuckerError
from onnx_tucker.graph.ends import maker
from onnx_tucker.graph.segment import between, model_of, probe, uses
from onnx_tucker.graph.trainable import trainable
from onnx_tucker.job import Job
from onnx_tucker.later import Extent, Later
from onnx_tucker.parts import Part, blocks
from onnx_tucker.runtime.batches import Batches, Inputs
from onnx_tucker.runtime.fidelity import relative_l2
from onnx_tucker.runtime.inputs import divisible
from onnx_tucker.runtime.session import FAILURES, Feed, cores, cpu_name, first_line, output_names, run_named
from onnx_tucker.settings import Course
from onnx_tucker.version import __version__
from onnx_tucker.walk import Walk

if TYPE_CHECKING:
    from onnx_tucker.extras.network import Network
    from onnx_tucker.extras.training import Task

logger = logging.getLogger(__name__)

Weights = Mapping[str, NDArray[Any]]
"""Values of initializers, by name."""
Score = Callable[[onnx.ModelProto], float]
"""The user's score of a model."""

SHARE = 0.1
"""The share of the time that scores may take which are only shown."""
LOOK = 4
"""Samples that both are tried on before, if the model takes so few: all values on the way are then in memory."""
UNTRAINABLE = "The model has no weights in single precision that could be trained."
CLOSE = 1e-4
"""The relative error up to which what torch computes is what onnxruntime does."""


def require_torch() -> None:
    """Makes sure that there is what training needs.

    Raises:
        TuckerError: there is not.
    """
    for package in ("torch", "onnx2torch"):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise TuckerError(
                f"Fine-tuning needs {package}, which is not there ({error}): pip install 'onnx-tucker[finetune]'."
            ) from error


def require_known(job: Job, course: Course) -> None:
    """Makes sure that what a factorised model can be trained to is known, and torch computes the original's as it is.

    Raises:
        ModelError: it does not, or nothing can be trained.
        DataError: there is nothing to train on, or the labels fit no output.
    """
    _require_samples(job)
    if not any(found.is_site and found.site.dtype == np.float32 for found in job.found):
        raise ModelError(UNTRAINABLE)
    assert job.inputs is not None
    assert job.session is not None
    feed, model = _look(job.inputs.check, fixed=not divisible(job.session, job.inputs.check)), job.model
    outputs = _learnable(job, model, feed)
    stored = _dequantized(model)
    if stored:
        feed = {**feed, **run_named(job.open(probe(model, stored)), feed)}
    if stored or _cut(job, course):
        model = _up_to(model, feed, outputs)
    network = importlib.import_module("onnx_tucker.extras.network").Network(model, (), folder=job.folder)
    _check(job, model, network, feed, outputs)
    if course.loss != "distill":
        _criterion(job, job.model, feed)


def _look(check: Batches, *, fixed: bool) -> Feed:
    """Samples that both models are tried on before they are trained."""
    return check.feeds[0] if fixed else check.few(LOOK).feeds[0]


def _dequantized(model: onnx.ModelProto) -> list[str]:
    """What a model makes of weights stored as integers, which factors take the place of."""
    varying = {value.name for value in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    found = list[str]()
    for node in model.graph.node:
        if not varying.isdisjoint(uses(node)):
            varying.update(node.output)
        elif node.op_type == "DequantizeLinear":
            found += node.output
    return found


def _learnable(job: Job, model: onnx.ModelProto, feed: Feed) -> list[str]:
    """The outputs, or what they are judged by, that a model may come closer to.

    Raises:
        ModelError: there are none.
    """
    assert job.judged is not None
    outputs = _alike(job, model, job.judged.names, feed)
    if not outputs:
        raise ModelError("The model has no output of numbers with fractions, which could come closer.")
    return outputs


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
    _require_samples(job)
    assert job.inputs is not None
    assert job.session is not None
    fixed = not divisible(job.session, job.inputs.fit)
    job = replace(job, inputs=_finite(job.inputs, fixed))
    training: Any = importlib.import_module("onnx_tucker.extras.training")
    names = trainable(model)
    if not names:
        raise ModelError(UNTRAINABLE)
    assert job.inputs is not None
    look = _look(job.inputs.check, fixed=fixed)
    outputs = _learnable(job, model, look)
    hidden = _alike(job, model, _hidden(job, outputs), look)
    parts = blocks(model, names, [*hidden, *outputs]) if course.blocks else [Part(names, (), outputs, hidden)]
    result, course = model, replace(course, minutes=course.minutes / len(parts))
    with training.settled(job.settings.threads or cores()):
        for number, part in enumerate(parts):
            what = f"block {number + 1} of {len(parts)}, " if course.blocks else ""
            watch = _Watch(job, result, what, None if course.blocks else score)
            result = _trained(job, result, part, course, watch, look, fixed=fixed)
    return result


def _require_samples(job: Job) -> None:
    """Makes sure that there is something to train on.

    Raises:
        DataError: there is not.
    """
    if job.inputs is None or job.inputs.kind != "data":
        raise DataError("The data has no samples, so there is nothing to train on.")
    if job.inputs.blank:
        raise DataError("Each sample of the data is a single value throughout, of which nothing can be learnt.")


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
        told = f"loss {loss:.4g}, error {error:.4g}{self._scored}"
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
    piece = _up_to(model, known, [*part.gives, *part.hidden]) if course.blocks or _cut(job, course) else model
    network = training.Network(piece, part.weights, training.device(), job.folder)
    _check(job, piece, network, known, [*part.gives, *part.hidden])
    task = training.Task(
        network,
        _teacher(job, [*part.gives, *part.hidden]),
        part.gives,
        part.hidden,
        fit,
        check,
        fixed=fixed,
        lead=lead,
        criterion=None if course.loss == "distill" else _criterion(job, model, look),
        distilled=course.distilled,
    )
    key, left = _key(job, model, part, course), course
    if not course.blocks:
        task, left, key = _shortened(job, model, task, part.weights, course, key)
    state = Path(job.settings.cache or "") / "trained" / f"{key}.pt" if key is not None else None
    trained = training.train(task, left, watch, state)
    logger.info("error %.4g before, %.4g after %d epochs", trained.before, trained.after, trained.epochs)
    return _with_weights(model, trained.weights) if trained.after < trained.before else model


def _cut(job: Job, course: Course) -> bool:
    """Whether nothing behind the values that a model is judged by is needed."""
    return course.loss == "distill" and job.judged is not None and bool(job.judged.parts)


def _up_to(model: onnx.ModelProto, known: Feed, names: Sequence[str]) -> onnx.ModelProto:
    """What of a model makes some values of known ones."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = between(model.graph.node, known, names)
    return onnx.ModelProto.FromString(model_of(model, nodes, tensors, known, names))


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
    known = job.memory.recall(chosen)
    choice = later.choice(course) if known is None else Extent(*known.value)
    if known is None:
        job.memory.remember(chosen, choice)
    shortened = later.task(choice)
    left = replace(course, minutes=max(0.0, course.minutes - (time.perf_counter() - began) / 60))
    return shortened, left, key and str(joblib.hash((key, choice)))


def _criterion(job: Job, model: onnx.ModelProto, look: Feed) -> Any:
    """The loss that fits the labels, of one of the outputs."""
    assert job.session is not None
    assert job.inputs is not None
    labels: Any = importlib.import_module("onnx_tucker.extras.labels")
    check = job.inputs.check
    values, outputs = run_named(job.session, check.feeds[0]), _alike(job, model, output_names(job.session), look)
    makers = {name: maker(model, name) for name in outputs}
    return labels.criterion([*check.labels, *job.inputs.fit.labels], {n: values[n] for n in outputs}, makers)


def _key(job: Job, model: onnx.ModelProto, part: Part, course: Course) -> str | None:
    """A key of what training follows from; None without a cache, or where weights are in files, which may change."""
    if job.settings.cache is None or job.inputs is None or job.data_files:
        return None
    content, labels = model.SerializeToString(deterministic=True), [job.inputs.fit.labels, job.inputs.check.labels]
    versions = [__version__, version("torch"), version("onnx2torch")]
    return str(joblib.hash((job.fingerprint, content, job.inputs.digest, labels, part, course, versions)))


def _alike(job: Job, model: onnx.ModelProto, names: Sequence[str], feed: Feed) -> list[str]:
    """Those of some values that nodes of a model make, of numbers with fractions, and of the original's shape."""
    known = {name for node in model.graph.node for name in node.output}
    names = [name for name in names if name in known]
    try:
        wanted, made = (
            (run_named(job.open(probe(one, names)), feed) for one in (job.model, model)) if names else ({}, {})
        )
    except FAILURES as error:
        raise ModelError(f"onnxruntime cannot run the factorised model: {first_line(error)}.") from error
    arrays = {name: value for name, value in wanted.items() if isinstance(value, np.ndarray) and value.size}
    return [n for n, value in arrays.items() if value.dtype.kind == "f" and value.shape == np.shape(made[n])]


def _hidden(job: Job, outputs: Collection[str]) -> list[str]:
    """What the original's linear nodes give, but for the outputs."""
    here = [found.output for found in job.found if found.place.scope.graph is job.model.graph]
    return [name for name in here if name not in outputs]


def _check(job: Job, model: onnx.ModelProto, network: Network, known: Feed, names: Sequence[str]) -> None:
    """Makes sure that torch computes what onnxruntime does.

    Args:
        job: the run.
        model: what is trained.
        network: the same in torch.
        known: the values that it takes, and perhaps others.
        names: of those that it is to learn.

    Raises:
        ModelError: it does not; the text names the first node that differs.
    """
    feed = {value.name: known[value.name] for value in model.graph.input if value.name in known}
    differing = _differing(job, model, network, feed, names)
    if differing is None:
        return
    needed = {*names, *(name for node in model.graph.node for name in uses(node))}
    inner = [name for node in model.graph.node for name in node.output if name in needed]
    first = _differing(job, model, network, feed, inner) or differing
    node = next(node for node in model.graph.node if first in node.output)
    raise ModelError(
        f"torch does not compute the {node.op_type} {node.name or first!r} as onnxruntime does, so that the model "
        "cannot be fine-tuned."
    )


def _differing(job: Job, model: onnx.ModelProto, network: Network, feed: Feed, names: Sequence[str]) -> str | None:
    """The first value, of those named, that torch computes otherwise."""
    try:
        session = job.open(probe(model, names))
        expected = session.run(list(names), dict(feed))
    except FAILURES as error:
        raise ModelError(f"onnxruntime cannot run the factorised model: {first_line(error)}.") from error
    for name, value, array in zip(names, expected, network.arrays(feed, names), strict=True):
        if not isinstance(value, np.ndarray) or value.shape != array.shape:
            return name
        if (np.isfinite(value) & ~np.isfinite(array)).any():
            return name
        missed = relative_l2(value, array)
        if missed is None:  # there is nothing to relate it to: zeros, nothing, no number
            missed = 0.0 if np.allclose(array, value, atol=CLOSE, equal_nan=True) else math.inf
        if missed > CLOSE:
            return name
    return None


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
