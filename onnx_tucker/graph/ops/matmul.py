"""MatMul with a constant on either side, and onnxruntime's FusedMatMul, which also transposes and scales.

The batch of a constant is a number of groups: each of its matrices is factorised by itself, at the same rank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_tucker.cost import Layer
from onnx_tucker.graph.constants import Constants
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.nodes import STANDARD, Place, attributes
from onnx_tucker.graph.ops.op import (
    BROADCASTS,
    LAYERS,
    Added,
    Emission,
    Op,
    Reading,
    Seat,
    contradicted,
    refuse,
    settle,
)
from onnx_tucker.types import Array, Stage, Window

LEFT, RIGHT = 0, 1
TRANSPOSED = ("transA", "transB")


def read(place: Place, context: Context) -> Reading:
    """Reads a MatMul or FusedMatMul node; products of two computed values bear no weights but are listed."""
    given = attributes(place.node)
    sides = {side: context.constant(place, side) for side in (RIGHT, LEFT)}
    index, weight = next(((side, found) for side, found in sides.items() if found), (RIGHT, None))
    if weight is None:
        names = [place.node.input[side] for side in sides]
        if any(_is_stored(name, place, context.constants) for name in names):
            return _counted(place, context, refuse(place, "its weight is computed in the graph"))
        return _counted(place, context, replace(refuse(place, "neither side is a constant"), params=0))
    if any(given.get(name) for name in ("transBatchA", "transBatchB")):
        return refuse(place, "its batches are transposed", weight)
    if len(weight.shape) < 2:
        return _counted(place, context, refuse(place, "the weight is a vector", weight))
    data, turned = 1 - index, bool(given.get(TRANSPOSED[index])) != (index == RIGHT)
    *batch, rows, columns = weight.shape
    out, inp = (columns, rows) if turned else (rows, columns)
    stage, shape = Stage(out, inp, Window(), math.prod(batch)), context.shape(place, data)
    last = (data == LEFT) != bool(given.get(TRANSPOSED[data])) or len(shape or ()) == 1
    if shape is not None:
        shape = _canonical_input(stage, shape, batch, last)
    # A batch of matrices makes a batch of vectors of one vector, which the next stage would take for a matrix.
    input_rank = len(context.shape(place, data) or context.fixed.get(place.node.input[data]) or ())
    vectors = partial(_vectors, data == RIGHT)
    unknown = "its input is not known to be a matrix, see --input-shape" if batch and input_rank < 2 else ""
    reading = settle(
        place,
        context,
        stage,
        shape,
        Seat(weight, index, data, ("MatMul", index, turned), partial(_store, tuple(batch), index), vectors, vectors),
        partial(_canonical, turned),
        scalings=int(given.get("alpha", 1.0) != 1),
        objection=unknown or contradicted(place, context, data, -1 if last else -2, inp),
    )
    return replace(reading, added=None if batch or index == LEFT else _added(place, context, out))


def _is_stored(name: str, place: Place, constants: Constants) -> bool:
    """Whether what a node takes follows from stored values alone, a matrix among them that is none of other layers."""
    return not constants.varies(name, place.scope) and constants.behind(name, place.scope, LAYERS)[1]


def _added(place: Place, context: Context, out: int) -> Added | None:
    """The constant vector that an Add behind the node adds: exporters write linear layers so."""
    user = context.constants.only_user(place)
    if context.opset < BROADCASTS or user is None or user.node.op_type != "Add" or user.node.domain not in STANDARD:
        return None
    index = 1 - list(user.node.input).index(place.node.output[0])
    constant = context.constant(user, index)
    if constant is None or context.constants.overridable(constant):
        return None
    vector = math.prod(constant.shape[:-1]) == 1 and math.prod(constant.shape) in (1, out)
    return Added(constant, user, index) if vector else None


def _canonical_input(
    stage: Stage, shape: tuple[int, ...], batch: list[int], features_last: bool
) -> tuple[int, int] | None:
    """(vectors that each group multiplies, all groups' inputs); None where a free size was taken for 1, and is not."""
    features, vectors = (shape[-1:], shape[-2:-1]) if features_last else (shape[-2:-1], shape[-1:])
    try:
        batches = math.prod(np.broadcast_shapes(shape[:-2], tuple(batch)))
    except ValueError:
        return None
    if features != (stage.inp,) or not stage.groups:
        return None
    return batches * math.prod(vectors) // stage.groups, stage.groups * stage.inp


def _vectors(columns: bool, array: Array) -> Array:
    """(*batch, vectors, features), or with the vectors in `columns`, to (vectors, features)."""
    rows = np.swapaxes(array, -1, -2) if columns and array.ndim > 1 else array
    return rows.reshape(-1, rows.shape[-1])


def _canonical(turned: bool, array: Array) -> Array:
    """(*batch, rows, columns) to (batch * out, in)."""
    rows_out = np.swapaxes(array, -1, -2) if turned else array
    return rows_out.reshape(-1, rows_out.shape[-1])


def _store(batch: tuple[int, ...], index: int, stage: Stage, factor: Array) -> Array:
    """(batch * out, in) to the order in which a plain MatMul takes it on its side."""
    matrices = factor.reshape(*batch, stage.out, stage.inp)
    return np.swapaxes(matrices, -1, -2) if index == RIGHT else matrices


def _counted(place: Place, context: Context, reading: Reading) -> Reading:
    """The reading of a plain product, counted as far as shapes are known."""
    shape, out_shape = context.shape(place, LEFT), context.shapes.get(place.node.output[0])
    layer = None
    if shape and out_shape is not None:
        fan_out = out_shape[-1] if out_shape else 1
        outputs = math.prod(out_shape)
        layer = Layer(
            positions=outputs // max(fan_out, 1),
            in_positions=0,
            outputs=outputs,
            fan_in=shape[-1],
            fan_out=fan_out,
            volume=0,
            bias=False,
        )
    return replace(reading, layer=layer)


def emit(parts: Emission) -> list[gs.Node]:
    """One MatMul a stage; the first transposes the activations and the last scales, if the node does."""
    given, last = attributes(parts.node), len(parts.stages) - 1
    return [_product(parts, i, _fused(given, parts.seat.data, i == 0, i == last)) for i in range(len(parts.stages))]


def _product(parts: Emission, i: int, attrs: dict[str, Any]) -> gs.Node:
    if attrs or parts.is_last(i):  # the last one stays what the node is
        return parts.layer(i, parts.node.op_type, attrs, domain=parts.node.domain)
    return parts.layer(i, "MatMul", attrs)


def _fused(given: Mapping[str, Any], data: int, first: bool, last: bool) -> dict[str, Any]:
    attrs = {}
    if first and given.get(TRANSPOSED[data]):
        attrs[TRANSPOSED[data]] = 1
    if last and "alpha" in given:
        attrs["alpha"] = given["alpha"]
    return attrs


MATMUL = Op("", read, emit)
FUSED_MATMUL = Op("com.microsoft", read, emit)
