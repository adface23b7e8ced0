"""The last step of compression: trains the weights of a factorised model until it does what the original does.

The original is the teacher, so that inputs without labels suffice. Only values of weights and biases change.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tucker.errors import ModelError, TuckerError
from onnx_tucker.graph.layer import probe
from onnx_tucker.graph.trainable import trainable
from onnx_tucker.job import Job
from onnx_tucker.runtime.fidelity import relative_l2
from onnx_tucker.runtime.session import FAILURES, Feed, cores, first_line, run_named
from onnx_tucker.settings import Course

if TYPE_CHECKING:
    from onnx_tucker.extras.network import Network

logger = logging.getLogger(__name__)

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


def tuned(job: Job, model: onnx.ModelProto, course: Course) -> onnx.ModelProto:
    """A copy of a model with weights that are trained to give what the original gives.

    Args:
        job: the run on the original, with data.
        model: takes the same inputs and has the same outputs.
        course: how to train; an interrupted run goes on from its last epoch, if there is a cache.

    Raises:
        ModelError: it has nothing to train, or torch does not compute what onnxruntime does.
    """
    assert job.session is not None
    assert job.inputs is not None
    training: Any = importlib.import_module("onnx_tucker.extras.training")
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(job.settings.threads or cores())
    names = trainable(model)
    if not names:
        raise ModelError("The factorised model has no weights in single precision that could be trained.")
    network = training.Network(model, names, "cuda" if torch.cuda.is_available() else "cpu")
    feed = dict(job.inputs.check.feeds[0])
    _check(job, model, network, feed)
    outputs = [name for name, array in run_named(job.session, feed).items() if array.dtype.kind == "f"]
    hidden = _hidden(job, model, outputs)
    fixed = any(isinstance(value.shape[0], int) for value in job.session.get_inputs() if value.shape)
    teacher = partial(run_named, job.stopwatch.machine.session(probe(job.model, [*outputs, *hidden]), job.folder))
    fit, check = job.inputs.fit, job.inputs.check

    def watch(epoch: int, loss: float, error: float) -> None:
        job.progress(f"fine-tuning, error {error:.4g}", epoch + 1, course.epochs)
        logger.info("epoch %d: loss %.4g, error on samples kept apart %.4g", epoch + 1, loss, error)

    task = training.Task(network, teacher, outputs, hidden, fit, check, fixed)
    trained = training.train(task, course, watch, _state(job, model, course))
    logger.info("error %.4g before, %.4g after %d epochs", trained.before, trained.after, trained.epochs)
    return _with_weights(model, trained.weights)


def _state(job: Job, model: onnx.ModelProto, course: Course) -> Path | None:
    """The file that an interrupted run goes on from."""
    if job.settings.cache is None or job.inputs is None:
        return None
    content = model.SerializeToString(deterministic=True)
    key = joblib.hash((job.fingerprint, content, job.inputs.digest, course))
    return Path(job.settings.cache) / "trained" / f"{key}.pt"


def _hidden(job: Job, model: onnx.ModelProto, outputs: Sequence[str]) -> list[str]:
    """Values of the original's linear nodes that the model has too, but for the outputs."""
    made = {name for node in model.graph.node for name in node.output}
    here = [found.place for found in job.found if found.place.scope.graph is job.model.graph]
    return [place.node.output[0] for place in here if place.node.output[0] in made - {*outputs}]


def _check(job: Job, model: onnx.ModelProto, network: Network, feed: Feed) -> None:
    """Makes sure that torch computes what onnxruntime does.

    Raises:
        ModelError: it does not; the text names the first node that differs.
    """
    differing = _differing(job, model, network, feed, [value.name for value in model.graph.output])
    if differing is None:
        return
    inner = [name for node in model.graph.node for name in node.output if name]
    first = _differing(job, model, network, feed, inner) or differing
    node = next(node for node in model.graph.node if first in node.output)
    raise ModelError(
        f"torch does not compute the {node.op_type} {node.name or first!r} as onnxruntime does, so that the model "
        "cannot be fine-tuned."
    )


def _differing(job: Job, model: onnx.ModelProto, network: Network, feed: Feed, names: Sequence[str]) -> str | None:
    """The first value, of those named, that torch computes otherwise."""
    try:
        session = job.stopwatch.machine.session(probe(model, names), job.folder)
        expected = session.run(list(names), dict(feed))
    except FAILURES as error:
        raise ModelError(f"onnxruntime cannot run the factorised model: {first_line(error)}.") from error
    for name, value, other in zip(names, expected, network.run(feed, names), strict=True):
        array = other.detach().cpu().numpy()
        same = isinstance(value, np.ndarray) and value.shape == array.shape
        missed = relative_l2(value, array) if same else None
        if missed is None or missed > CLOSE:
            return name
    return None


def _with_weights(model: onnx.ModelProto, weights: dict[str, NDArray[Any]]) -> onnx.ModelProto:
    """A copy of a model with other values for some of its initializers."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        if tensor.name in weights:
            values = numpy_helper.from_array(weights[tensor.name])
            tensor.ClearField("float_data")
            tensor.raw_data = values.raw_data
    return result
