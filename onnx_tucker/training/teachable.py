"""What of a model can be trained, and whether torch computes it as onnxruntime does."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_tucker.course import Course
from onnx_tucker.errors import DataError, ModelError, TuckerError
from onnx_tucker.graph.ends import maker
from onnx_tucker.graph.nodes import inputs_of
from onnx_tucker.graph.segment import between, model_of, probe, uses
from onnx_tucker.job import Job
from onnx_tucker.runtime.batches import Batches
from onnx_tucker.runtime.fidelity import relative_l2
from onnx_tucker.runtime.inputs import divisible
from onnx_tucker.runtime.session import FAILURES, Feed, first_line, output_names, run_named

if TYPE_CHECKING:
    from onnx_tucker.extras.network import Network

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
        except (ImportError, OSError, RuntimeError) as error:  # the latter where what is installed does not fit
            raise TuckerError(
                f"Fine-tuning needs {package}, which cannot be loaded ({first_line(error)}): "
                "pip install 'onnx-tucker[finetune]'."
            ) from error


def require_known(job: Job, course: Course) -> None:
    """Makes sure that what a factorised model can be trained to is known, and torch computes the original's as it is.

    Raises:
        ModelError: it does not, or nothing can be trained.
        DataError: there is nothing to train on, or the labels fit no output.
    """
    require_samples(job)
    if not any(found.is_site and found.site.dtype == np.float32 for found in job.found):
        raise ModelError(UNTRAINABLE)
    assert job.inputs is not None
    assert job.session is not None
    feed, model = first_samples(job.inputs.check, fixed=not divisible(job.session, job.inputs.check)), job.model
    outputs = learnable(job, model, feed)
    stored = _dequantized(model) if job.settings.dequantize else []
    if stored:
        feed = {**feed, **run_named(job.open(probe(model, stored)), feed)}
    if stored or cut(job, course):
        model = up_to(model, feed, outputs)
    network = importlib.import_module("onnx_tucker.extras.network").Network(model, (), folder=job.folder)
    require_same(job, model, network, feed, outputs)
    if course.loss != "distill":
        criterion(job, job.model, feed)


def require_samples(job: Job) -> None:
    """Makes sure that there is something to train on.

    Raises:
        DataError: there is not.
    """
    if job.inputs is None or job.inputs.kind != "data":
        raise DataError("The data has no samples, so there is nothing to train on.")
    if job.inputs.blank:
        raise DataError("Each sample of the data is a single value throughout, of which nothing can be learnt.")


def first_samples(check: Batches, *, fixed: bool) -> Feed:
    """Samples that both models are tried on before they are trained."""
    return check.feeds[0] if fixed else check.few(LOOK).feeds[0]


def _dequantized(model: onnx.ModelProto) -> list[str]:
    """What a model makes of weights stored as integers, which factors take the place of."""
    varying = {*inputs_of(model)}
    found = list[str]()
    for node in model.graph.node:
        if not varying.isdisjoint(uses(node)):
            varying.update(node.output)
        elif node.op_type == "DequantizeLinear":
            found += node.output
    return found


def learnable(job: Job, model: onnx.ModelProto, feed: Feed) -> list[str]:
    """The outputs, or what they are judged by, that a model may come closer to.

    Raises:
        ModelError: there are none.
    """
    assert job.judged is not None
    outputs = alike(job, model, job.judged.names, feed)
    if not outputs:
        raise ModelError("The model has no output of numbers with fractions, which could come closer.")
    return outputs


def cut(job: Job, course: Course) -> bool:
    """Whether nothing behind the values that a model is judged by is needed."""
    return course.loss == "distill" and job.judged is not None and bool(job.judged.parts)


def up_to(model: onnx.ModelProto, known: Feed, names: Sequence[str]) -> onnx.ModelProto:
    """What of a model makes some values of known ones."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = between(model.graph.node, known, names)
    return onnx.ModelProto.FromString(model_of(model, nodes, tensors, known, names))


def criterion(job: Job, model: onnx.ModelProto, look: Feed) -> Any:
    """The loss that fits the labels, of one of the outputs."""
    assert job.session is not None
    assert job.inputs is not None
    labels: Any = importlib.import_module("onnx_tucker.extras.labels")
    check = job.inputs.check
    values, outputs = run_named(job.session, check.feeds[0]), alike(job, model, output_names(job.session), look)
    makers = {name: maker(model, name) for name in outputs}
    return labels.criterion([*check.labels, *job.inputs.fit.labels], {n: values[n] for n in outputs}, makers)


def alike(job: Job, model: onnx.ModelProto, names: Sequence[str], feed: Feed) -> list[str]:
    """Those of some values that nodes of a model make, of numbers with fractions, and of the original's shape.

    Args:
        job: the run on the original.
        model: another one with the same inputs.
        names: of the values.
        feed: what both are run on.

    Raises:
        ModelError: one of them does not run.
    """
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


def require_same(job: Job, model: onnx.ModelProto, network: Network, known: Feed, names: Sequence[str]) -> None:
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
