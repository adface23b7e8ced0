"""Other operators that multiply by a weight matrix: reported, and left alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx import TensorProto

from onnx_tucker.cost import Layer
from onnx_tucker.graph.constant import FLOATS
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.nodes import STANDARD, Place
from onnx_tucker.graph.ops.op import Reading, refuse

RECURRENT = frozenset(("GRU", "LSTM", "RNN"))
INTEGER = frozenset(("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"))
HOLDERS = RECURRENT | INTEGER | {"DeformConv", "Einsum"}
"""Standard operators that multiply by a weight matrix; those of other domains are taken to do so."""
WEIGHTS, BIAS = (1, 2), 3
"""Which inputs of recurrent operators are the weights of inputs and states, and what is added to both."""
INTEGERS = (TensorProto.INT8, TensorProto.UINT8)
"""Element types of other weights of `INTEGER` and of other domains."""


def read(place: Place, context: Context) -> Reading | None:
    """A reading of a node that multiplies by a weight matrix, or None."""
    if place.node.op_type not in HOLDERS and place.node.domain in STANDARD:
        return None
    recurrent = place.node.op_type in RECURRENT
    places = WEIGHTS if recurrent else range(len(place.node.input))
    constants = filter(None, (context.constant(place, i) for i in places))
    types = FLOATS if place.node.op_type in HOLDERS - INTEGER else (*FLOATS, *INTEGERS)
    held = {c.counted: c.count for c in constants if c.tensor.data_type in types and _is_matrix(c.tensor.dims)}
    if not held:
        return None
    params = sum(held.values())
    own = place.node.domain == "com.microsoft.nchwc"
    why = "it is in onnxruntime's own layout; give the model from before it was optimised" if own else ""
    reading = refuse(place, why or f"{place.node.op_type} is not factorised")
    reading = replace(reading, params=params, origins=frozenset(held))
    if not recurrent:
        return reading
    bias = context.constant(place, BIAS)
    count, origin = (bias.count, bias.counted) if bias else (0, None)
    return replace(reading, bias_params=count, bias_origin=origin, layer=_recurrent(place, context))


def _recurrent(place: Place, context: Context) -> Layer | None:
    """The products of a recurrent node: of every step's input, and of the state before it, for all gates."""
    shape, weight, state = context.shape(place, 0), context.constant(place, 1), context.constant(place, 2)
    if shape is None or weight is None or state is None or not len(shape) == len(weight.shape) == len(state.shape) == 3:
        return None
    steps, (directions, rows, inp) = shape[0] * shape[1], weight.shape
    return Layer(
        positions=steps,
        in_positions=steps,
        outputs=steps * directions * rows,
        fan_in=inp + state.shape[2],
        fan_out=directions * rows,
        volume=0,
        bias=len(place.node.input) > 3 and bool(place.node.input[3]),
    )


def _is_matrix(dims: Sequence[int]) -> bool:
    return sum(size > 1 for size in dims) >= 2
