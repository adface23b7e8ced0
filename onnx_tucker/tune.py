"""Fine-tuning among the other steps: which model is trained, and whether what comes of it is taken."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_tucker.course import Course
from onnx_tucker.distil import tuned
from onnx_tucker.errors import ModelError, PlanError
from onnx_tucker.factorise import Factorised
from onnx_tucker.giveback import Made, candidates_of
from onnx_tucker.graph import io, provenance
from onnx_tucker.graph.check import LIMIT, weight_bytes
from onnx_tucker.graph.nodes import graphs
from onnx_tucker.job import Job
from onnx_tucker.prepare import Source
from onnx_tucker.pricing import choice_of
from onnx_tucker.promises import Promises, Verdict
from onnx_tucker.replay import replay
from onnx_tucker.runtime.fidelity import mean_error
from onnx_tucker.settings import Settings
from onnx_tucker.teachable import require_torch
from onnx_tucker.types import Candidate, Plan

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


def student(job: Job, source: Source) -> io.Loaded:
    """A copy of the factorised model, with all its weights in it, if it can stand in for the original.

    Raises:
        ModelError: it cannot be read, has other inputs or outputs, or is too large.
    """
    if isinstance(source, onnx.ModelProto):
        loaded = io.Loaded(onnx.ModelProto.FromString(source.SerializeToString()), Path(), frozenset())
    else:
        loaded = io.load(source)
    model = loaded.model
    if io.external_tensors(model) and (isinstance(source, onnx.ModelProto) or weight_bytes(model) > LIMIT):
        raise ModelError(
            "The factorised model has weights in files that are not read; give its path, and 2 GB at most."
        )
    io.read_in(model, loaded.folder)
    for kind in ("input", "output"):
        if _ends(job.original, kind) != _ends(model, kind):
            raise ModelError(f"The factorised model is not one of the original: it has other {kind}s.")
    return loaded


def _ends(model: onnx.ModelProto, kind: str) -> list[str]:
    """Names of a model's inputs or outputs; before version 4 of the format, weights are among the inputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in getattr(model.graph, kind) if kind == "output" or value.name not in weights]


def restored(job: Job, model: onnx.ModelProto) -> Made:
    """A model that an earlier run has made of the original, by what it says of itself.

    Raises:
        PlanError: it was made of another one, or does not say of which.
    """
    before = provenance.recipes(job.original)
    noted = {label: recipe for label, recipe in provenance.recipes(model).items() if before.get(label) != recipe}
    if not noted:
        if model.graph.node == job.original.graph.node:
            raise PlanError(
                "The factorised model is the original: nothing of it was factorised, so nothing can be tuned."
            )
        raise PlanError(
            "The factorised model does not say what was made of the original: give ORIGINAL and then FACTORISED, which "
            "this version has made of it."
        )
    layers = {found.label for found in job.found if found.is_layer}
    strange = sorted(noted.keys() - layers)
    if strange:
        raise PlanError(
            f"The factorised model has a chain for {strange[0]!r}, which the original has not to be factorised: give "
            "that, and --dequantize, --inline-functions and the like as when it was made."
        )
    choices = []
    for found in job.found:
        recipe = noted.get(found.label)
        candidate = Candidate(recipe.method, recipe.ranks, (), form=recipe.form) if recipe else None
        choices.append(choice_of(found, candidate, "" if recipe else "not factorised by the earlier run"))
    decision = replay(job, Plan(tuple(choices)))
    candidates = candidates_of(job, decision)
    tensors = {tensor.name: tensor for graph in graphs(model) for tensor in graph.initializer}
    lost = sorted(name for label in candidates for name in noted[label].weights if name not in tensors)
    if lost:
        raise PlanError(f"The factorised model has no weight {lost[0]!r}: something else has changed it since.")
    weights = {label: [tensors[name] for name in noted[label].weights] for label in candidates}
    return Made(decision, Factorised(model, candidates, weights, {}))


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
