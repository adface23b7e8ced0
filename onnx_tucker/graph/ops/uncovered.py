"""Operators with weights that are counted where possible, and reported, but not factorised."""

from __future__ import annotations

import math

from onnx_tucker.cost import Layer
from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.op import FLOATS, Context, Reading, refuse


def conv_transpose(place: Place, context: Context) -> Reading:
    """Counts a ConvTranspose node: its kernel is applied at every input position."""
    node = place.node
    tensor = context.initializers.get(node.input[1])
    shape, out_shape = context.shapes.get(node.input[0]), context.shapes.get(node.output[0])
    layer = None
    if tensor is not None and shape and out_shape:
        inp, out, *kernel = tensor.dims
        positions = shape[0] * math.prod(shape[2:])
        groups = attributes(node).get("group", 1)
        layer = Layer(
            positions=positions,
            in_positions=positions,
            outputs=math.prod(out_shape),
            fan_in=inp // groups,
            fan_out=out * groups,
            volume=math.prod(kernel),
            bias=len(node.input) > 2,
        )
    return refuse(place, "ConvTranspose is not factorised", tensor, layer)


def matmul(place: Place, context: Context) -> Reading:
    """Counts a MatMul node with a constant side; products of two computed values bear no weights but are listed."""
    node = place.node
    tensor = next((context.initializers[i] for i in node.input if i in context.initializers), None)
    shape, out_shape = context.shapes.get(node.input[0]), context.shapes.get(node.output[0])
    layer = None
    if shape and out_shape:
        outputs = math.prod(out_shape)
        layer = Layer(
            positions=outputs // max(out_shape[-1], 1) if len(out_shape) else 1,
            in_positions=0,
            outputs=outputs,
            fan_in=shape[-1],
            fan_out=out_shape[-1] if len(out_shape) else 1,
            volume=0,
            bias=False,
        )
    reason = "neither side is an initializer" if tensor is None else "MatMul is not factorised"
    return refuse(place, reason, tensor, layer)


def other(place: Place, context: Context) -> Reading | None:
    """A reading of any other node that holds a weight matrix (an LSTM, an embedding), or None."""
    for name in place.node.input:
        tensor = context.initializers.get(name)
        if tensor is not None and tensor.data_type in FLOATS and sum(d > 1 for d in tensor.dims) >= 2:
            return refuse(place, f"{place.node.op_type} is not factorised", tensor)
    return None
