"""A factorised model of an earlier run, which is to be trained: what it was made of, and how."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnx_tucker.errors import ModelError, PlanError
from onnx_tucker.fitting.factorise import Factorised
from onnx_tucker.giveback import Made, candidates_of
from onnx_tucker.graph import io, provenance
from onnx_tucker.graph.check import LIMIT, weight_bytes
from onnx_tucker.graph.nodes import graphs, inputs_of
from onnx_tucker.job import Job
from onnx_tucker.planning.pricing import choice_of
from onnx_tucker.planning.replay import replay
from onnx_tucker.prepare import Source
from onnx_tucker.types import Candidate, Plan


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
    for kind, names in (("inputs", inputs_of), ("outputs", _outputs)):
        if names(job.original) != names(model):
            raise ModelError(f"The factorised model is not one of the original: it has other {kind}.")
    return loaded


def _outputs(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output]


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
