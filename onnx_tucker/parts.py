"""What of a model is trained at a time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import onnx

from onnx_tucker.graph.segment import between, uses


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


def behind(model: onnx.ModelProto, weights: Collection[str], gives: Sequence[str]) -> list[str]:
    """What nodes that change with some weights need of those that do not, numbers with fractions alone.

    Args:
        model: the main graph of it.
        weights: names of the initializers that change.
        gives: names of the values that the nodes are for.

    Returns:
        Names of values that nodes or callers give; others, such as shapes and constants, follow from these.
    """
    constant = {tensor.name for tensor in model.graph.initializer}
    changing, varying = {*weights}, {value.name for value in model.graph.input} - constant
    still, numbers = {*varying}, _numbers(model)
    for node in model.graph.node:
        if not changing.isdisjoint(uses(node)):
            changing.update(node.output)
        elif not varying.isdisjoint(uses(node)):
            varying.update(node.output)
            still |= numbers & {*node.output}
    used = {name for node in between(model.graph.node, still, gives) for name in uses(node)}
    return sorted(used & still)


def _numbers(model: onnx.ModelProto) -> set[str]:
    """Names of the values in single precision, as far as that can be inferred."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    single = onnx.TensorProto.FLOAT
    return {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == single}
