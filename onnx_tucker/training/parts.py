"""What of a model is trained at a time."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx

from onnx_tucker.graph.check import FAILURES
from onnx_tucker.graph.fold import SIZES
from onnx_tucker.graph.nodes import inputs_of
from onnx_tucker.graph.segment import between, uses
from onnx_tucker.graph.skeleton import skeleton
from onnx_tucker.runtime.session import first_line

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """All of the model, or what lies between two linear nodes.

    Attributes:
        weights: names of the initializers that are trained.
        takes: names of values that it needs, besides the model's inputs.
        gives: names of the values that are to come close to the original's.
        hidden: names of others on the way there.
    """

    weights: Sequence[str]
    takes: Sequence[str]
    gives: Sequence[str]
    hidden: Sequence[str]


def blocks(model: onnx.ModelProto, names: Sequence[str], values: Sequence[str]) -> list[Part]:
    """What lies between values, in order; weights that several use are trained with the first."""
    known = {value.name for value in model.graph.input}
    left, parts = dict.fromkeys(names), []
    for value in values:
        used = {name for node in between(model.graph.node, known, [value]) for name in uses(node)}
        weights = [name for name in left if name in used]
        if weights:
            takes = sorted(used & known - {v.name for v in model.graph.input})
            parts.append(Part(weights, takes, [value], ()))
        left = {name: None for name in left if name not in used}
        known.add(value)
    return parts


def taken(
    model: onnx.ModelProto,
    weights: Collection[str],
    gives: Sequence[str],
    kinds: Collection[str],
    same: Collection[str],
) -> list[str]:
    """The values that do not depend on some weights and are taken by nodes that do, on the way to what is wanted.

    Args:
        model: the main graph of it.
        weights: names of the initializers that change.
        gives: names of the values that the nodes are for.
        kinds: names of the values that can be taken; others, such as shapes and constants, follow from those.
        same: names of the inputs that are the same for all samples, and so is what follows from them alone.

    Returns:
        Names of values that nodes or callers give; empty where nothing changes.
    """
    graph = model.graph
    inputs = {*inputs_of(model)}
    changing, varying, still = {*weights}, inputs - {*same}, {*inputs}
    for node in graph.node:
        if not changing.isdisjoint(uses(node)):
            changing.update(node.output)
        elif not varying.isdisjoint(uses(node)) and node.op_type not in SIZES:
            varying.update(node.output)
            still.update(name for name in node.output if name in kinds)
    used = {*gives, *(name for node in between(graph.node, still, gives) for name in uses(node))}
    return sorted(used & still) if used & changing else []


def single_precision(model: onnx.ModelProto) -> set[str]:
    """Names of the values of the main graph that are known to be in single precision; all weights are in the model."""
    try:
        graph = onnx.shape_inference.infer_shapes(skeleton(model, Path())).graph
    except FAILURES as error:
        logger.info("types of values are not inferred: %s", first_line(error))
        return set()
    single = onnx.TensorProto.FLOAT
    values = (*graph.value_info, *graph.output)
    return {value.name for value in values if value.type.tensor_type.elem_type == single}
