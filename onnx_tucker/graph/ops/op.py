"""The interface of an operator: how its node is read into a site, and how a chain is emitted in its place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper

from onnx_tucker.cost import Layer
from onnx_tucker.graph.nodes import Place
from onnx_tucker.graph.shapes import Shapes, element_name
from onnx_tucker.types import Array, Site, Skip, Stage

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Context:
    """What a node's surroundings say about it.

    Attributes:
        initializers: constant tensors of the main graph by name.
        overridable: initializers that a caller may replace (they are graph inputs, IR version 4 or later).
        uses: how many node inputs, in all scopes, and graph outputs each value feeds.
        shapes: known shapes.
        opset: version of the standard operators.
    """

    initializers: dict[str, TensorProto]
    overridable: frozenset[str]
    uses: Counter[str]
    shapes: Shapes
    opset: int

    def weight(self, name: str) -> TensorProto | str:
        """The initializer `name`, or why it cannot be factorised."""
        tensor = self.initializers.get(name)
        if tensor is None:
            return "the weight is computed in the graph, not an initializer"
        if name in self.overridable:
            return "the weight is a graph input that callers may override"
        if self.uses[name] > 1:
            return "the weight is used in several places"
        if tensor.data_type not in FLOATS:
            return f"weights of type {element_name(tensor.data_type)} are not factorised"
        return tensor


@dataclass(frozen=True)
class Reading:
    """What a node was found to be: a site or a skip, and its counts where they are known.

    Attributes:
        found: the site, or why there is none.
        params: number of weights, without the bias.
        bias_params: number of constant bias values.
        layer: what the counting conventions see.
    """

    found: Site | Skip
    params: int | None = None
    bias_params: int = 0
    layer: Layer | None = None


@dataclass(frozen=True)
class Emission:
    """The parts a chain is emitted from: one weight a stage, and one value before, between and after the stages."""

    node: onnx.NodeProto
    stages: Sequence[Stage]
    weights: Sequence[gs.Constant]
    values: Sequence[gs.Variable]
    opset: int

    def rest(self) -> list[gs.Variable]:
        """The node's further inputs (the bias), which only the last stage takes."""
        return [gs.Variable(name) for name in self.node.input[2:]]


@dataclass(frozen=True)
class Op:
    """One operator type.

    Attributes:
        read: reads a node.
        stored: the array in which a stage's canonical weight is stored in a node like this one.
        emit: the nodes of a chain, weights as `stored`.
    """

    read: Callable[[Place, Context], Reading]
    stored: Callable[[onnx.NodeProto, Array], Array]
    emit: Callable[[Emission], list[gs.Node]]


def refuse(
    place: Place,
    reason: str,
    tensor: TensorProto | None = None,
    layer: Layer | None = None,
    bias_params: int = 0,
) -> Reading:
    """A reading that skips the node."""
    params = None if tensor is None else math.prod(tensor.dims)
    return Reading(Skip(place.label, place.node.op_type, reason), params, bias_params, layer)


def bias_size(node: onnx.NodeProto, context: Context) -> int:
    """Number of constant values added to the output, 0 without a bias or with a computed one."""
    name = node.input[2] if len(node.input) > 2 else ""
    return math.prod(context.initializers[name].dims) if name in context.initializers else 0


def values_of(tensor: TensorProto) -> Array | str:
    """The tensor's values, or why they cannot be factorised."""
    values = numpy_helper.to_array(tensor)
    if not values.size:
        return "the weight is empty"
    if not np.isfinite(values).all():
        return "the weight holds NaN or infinity"
    if not values.any():
        return "the weight is all zeros"
    return values
