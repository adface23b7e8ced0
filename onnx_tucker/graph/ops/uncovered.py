"""Operators with weights that are counted where possible, and reported, but not factorised."""

from __future__ import annotations

import math
from dataclasses import replace

from onnx_tucker.cost import Layer
from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.op import FLOATS, Context, Reading, bias_size, refuse


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
    return refuse(place, "ConvTranspose is not factorised", tensor, layer, bias_size(node, context))


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
    if tensor is None:
        return replace(refuse(place, "neither side is an initializer", layer=layer), params=0)
    return refuse(place, "MatMul is not factorised", tensor, layer)


HOLDERS = frozenset(("DeformConv", "Einsum", "GRU", "LSTM", "RNN"))
"""Further standard operators that multiply by a weight matrix; those of other domains are taken to do so."""


def other(place: Place, context: Context) -> Reading | None:
    """A reading of any other node that multiplies by a weight matrix, or None."""
    if place.node.op_type not in HOLDERS and place.node.domain in ("", "ai.onnx"):
        return None
    held = [context.initializers[name] for name in place.node.input if name in context.initializers]
    matrices = [t for t in held if t.data_type in FLOATS and sum(d > 1 for d in t.dims) >= 2]
    if not matrices:
        return None
    reading = refuse(place, f"{place.node.op_type} is not factorised")
    return replace(reading, params=sum(math.prod(t.dims) for t in matrices))
