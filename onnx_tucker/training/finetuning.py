"""Fine-tuning among the other steps: which model is trained, and whether what comes of it is taken."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from onnx_tucker.course import Course
from onnx_tucker.giveback import Made
from onnx_tucker.graph.nodes import graphs
from onnx_tucker.job import Job
from onnx_tucker.promises import Promises, Verdict
from onnx_tucker.runtime.fidelity import mean_error
from onnx_tucker.settings import Settings
from onnx_tucker.training.distil import tuned
from onnx_tucker.training.teachable import require_torch

logger = logging.getLogger(__name__)

CLEARLY = 0.99
"""What the error of the outputs has to be at most, relative to that before training: a smaller gain is the samples'.

Two scans of a segmentation network made .0643 .0641, though trained on, and the score on another scan fell.
"""


def course_of(settings: Settings) -> Course | None:
    """How the main command trains what it makes, if it is asked to.

    Raises:
        TuckerError: it is, and what training needs is not there.
    """
    if not settings.finetune_epochs:
        return None
    require_torch()
    return Course(settings.finetune_epochs, loss=loss_of(settings), seed=settings.seed)


def loss_of(settings: Settings) -> str:
    """What is learnt unless the user says: labels too, where there are some."""
    return "distill" if settings.labels is None else "both"


def trained(job: Job, before: Made, course: Course, promises: Promises) -> tuple[Made, Verdict]:
    """A model with trained weights, if they are better and break no promise; otherwise as it was."""
    old = before.result
    model = tuned(job, old.model, course, promises.score if job.settings.eval is not None else None)
    if model is not old.model:
        tensors = {tensor.name: tensor for graph in graphs(model) for tensor in graph.initializer}
        weights = {label: [tensors[weight.name] for weight in chain] for label, chain in old.weights.items()}
        errors: Mapping[str, None] = dict.fromkeys(old.errors)  # they were those of the weights before
        made = replace(before, result=replace(old, model=model, weights=weights, errors=errors))
        verdict = promises.verify(made.result)
        after, error = mean_error(verdict.closeness or []), promises.error(old)
        if not verdict.broken and (course.loss != "distill" or after < CLEARLY * error):
            return made, verdict
        untrained = promises.verify(old)
        if untrained.broken and (not verdict.broken or after < error):
            return made, verdict
        why = verdict.broken or "Fine-tuning brings the outputs less than 1 % closer to the original's."
        logger.warning("%s The weights stay as they were before fine-tuning.", why)
        return before, untrained
    logger.warning("Fine-tuning makes the model no better on the samples kept apart, so its weights stay as they were.")
    return before, promises.verify(old)
