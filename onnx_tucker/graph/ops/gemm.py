"""Gemm: Y = alpha A' B' + beta C with a constant B. A chain scales and adds C in its last stage only."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_tucker import cost
from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.op import Context, Emission, Op, Reading, bias_size, refuse, values_of
from onnx_tucker.types import Array, Site, Stage, Window


def read(place: Place, context: Context) -> Reading:
    """Reads a Gemm node."""
    node, given = place.node, attributes(place.node)
    bias_params = bias_size(node, context)
    tensor = context.weight(node.input[1])
    if context.opset < 7:
        tensor = "before opset 7 a Gemm broadcasts in another way"
    if isinstance(tensor, str):
        return refuse(place, tensor, context.initializers.get(node.input[1]), bias_params=bias_params)
    bias = len(node.input) > 2 and bool(node.input[2])
    scalings = (given.get("alpha", 1.0) != 1) + (bias and given.get("beta", 1.0) != 1)
    inp, out = reversed(tensor.dims) if given.get("transB") else tensor.dims
    shape = context.shapes.get(node.input[0])
    if shape and given.get("transA"):
        shape = shape[::-1]
    layer = next(cost.layers([Stage(out, inp, Window())], shape, bias, scalings)) if shape else None
    values = values_of(tensor)
    if isinstance(values, str):
        return refuse(place, values, tensor, layer, bias_params)
    site = Site(place.label, node.op_type, stored(node, values), Window(), shape, bias, scalings)
    return Reading(site, math.prod(tensor.dims), bias_params, layer)


def stored(node: onnx.NodeProto, weight: Array) -> Array:
    """The weight (out, in) as the node stores it; the same turn reads it back."""
    return weight if attributes(node).get("transB") else np.ascontiguousarray(weight.T)


def emit(parts: Emission) -> list[gs.Node]:
    """One Gemm a stage."""
    given = attributes(parts.node)
    nodes = []
    for i, weight in enumerate(parts.weights):
        attrs = {"transB": 1} if given.get("transB") else {}
        inputs = [parts.values[i], weight]
        if i == 0 and given.get("transA"):
            attrs["transA"] = 1
        if i == len(parts.weights) - 1:
            attrs |= {name: given[name] for name in ("alpha", "beta") if name in given}
            inputs += parts.rest()
        elif parts.opset < 11:  # C is required there
            inputs.append(gs.Constant(f"{weight.name}/zero", np.zeros(1, weight.values.dtype)))
        nodes.append(gs.Node("Gemm", attrs=attrs, inputs=inputs, outputs=[parts.values[i + 1]]))
    return nodes


GEMM = Op(read, stored, emit)
