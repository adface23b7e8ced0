"""Gemm: Y = alpha A' B' + beta C with a constant B, and onnxruntime's FusedGemm, which has an activation after it.

A chain scales, adds C and activates in its last stage only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_tucker.graph.context import Context
from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.op import (
    BROADCASTS,
    COMPUTED,
    MISFIT,
    Emission,
    Op,
    Reading,
    Seat,
    computed,
    contradicted,
    has_bias,
    refuse,
    settle,
)
from onnx_tucker.types import Array, Stage, Window

OPTIONAL_C = 11
"""The first opset in which C may be left out."""


def read(place: Place, context: Context) -> Reading:
    """Reads a Gemm or FusedGemm node."""
    given = attributes(place.node)
    weight = context.constant(place, 1)
    if weight is None:
        other, shape = context.constant(place, 0), context.shape(place, 1)
        if other is not None:
            return refuse(place, COMPUTED, other)
        stage = _stage(place, shape) if shape is not None and len(shape) == 2 else None
        known = None if stage is None else _input_shape(place, context, stage)
        return computed(place, context, stage, known, _scalings(place))
    transposed, turned = bool(given.get("transB")), bool(given.get("transA"))
    if len(weight.shape) != 2:
        return refuse(place, MISFIT, weight)
    stage, bias = _stage(place, weight.shape), has_bias(place)
    objection = "before opset 7 a Gemm broadcasts in another way" if context.opset < BROADCASTS else ""
    return settle(
        place,
        context,
        stage,
        _input_shape(place, context, stage),
        Seat(weight, 1, 0, ("Gemm", transposed), partial(_store, transposed), np.transpose if turned else np.asarray),
        lambda array: array if transposed else array.T,
        bias=bias,
        scalings=_scalings(place),
        objection=objection or contradicted(place, context, 0, 0 if turned else 1, stage.inp),
    )


def _stage(place: Place, shape: Sequence[int]) -> Stage:
    """The node as the only stage of a chain, by the shape of its weight."""
    inp, out = reversed(shape) if attributes(place.node).get("transB") else shape
    return Stage(out, inp, Window())


def _input_shape(place: Place, context: Context, stage: Stage) -> tuple[int, ...] | None:
    """(vectors, in) where that is known."""
    shape = context.shape(place, 0)
    if shape is not None and attributes(place.node).get("transA"):
        shape = shape[::-1]
    # Otherwise a free size was taken for 1, and is not.
    return shape if shape is not None and len(shape) == 2 and shape[1] == stage.inp else None


def _scalings(place: Place) -> int:
    """Further multiplications per output."""
    given = attributes(place.node)
    return sum((given.get("alpha", 1.0) != 1, has_bias(place) and given.get("beta", 1.0) != 1))


def _store(transposed: bool, stage: Stage, factor: Array) -> Array:
    return factor if transposed else factor.T


def emit(parts: Emission) -> list[gs.Node]:
    """One Gemm a stage; the last is fused if the node is."""
    given = attributes(parts.node)
    nodes = []
    for i in range(len(parts.stages)):
        attrs: dict[str, Any] = {"transB": 1} if given.get("transB") else {}
        if i == 0 and given.get("transA"):
            attrs["transA"] = 1
        if parts.is_last(i):
            attrs |= {name: value for name, value in given.items() if not name.startswith("trans")}
            nodes.append(parts.layer(i, parts.node.op_type, attrs, parts.rest(), parts.node.domain))
        else:
            nodes.append(parts.layer(i, "Gemm", attrs, [_zero(parts, i)] if parts.opset < OPTIONAL_C else []))
    return nodes


def _zero(parts: Emission, i: int) -> gs.Constant:
    return gs.Constant(parts.names.fresh(f"{parts.values[i + 1]}/zero"), np.zeros(1, parts.dtype))


GEMM = Op("", read, emit)
FUSED_GEMM = Op("com.microsoft", read, emit)
