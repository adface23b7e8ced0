"""Gemm: Y = alpha A' B' + beta C with a constant B, and onnxruntime's FusedGemm, which has an activation after it.

A chain scales, adds C and activates in its last stage only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.op import (
    BROADCASTS,
    COMPUTED,
    MISFIT,
    Context,
    Emission,
    Op,
    Reading,
    Seat,
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
        return refuse(place, COMPUTED, context.constant(place, 0))
    shape, transposed, turned = context.shape(place, 0), bool(given.get("transB")), bool(given.get("transA"))
    if shape is not None and turned:
        shape = shape[::-1]
    if len(weight.shape) != 2:
        return refuse(place, MISFIT, weight)
    inp, out = reversed(weight.shape) if transposed else weight.shape
    if shape is not None and (len(shape) != 2 or shape[1] != inp):
        shape = None  # a free size was taken for 1, and is not
    bias = has_bias(place)
    return settle(
        place,
        context,
        Stage(out, inp, Window()),
        shape,
        Seat(weight, 1, 0, ("Gemm", transposed), partial(_store, transposed), np.transpose if turned else np.asarray),
        lambda array: array if transposed else array.T,
        bias=bias,
        scalings=(given.get("alpha", 1.0) != 1) + (bias and given.get("beta", 1.0) != 1),
        objection="before opset 7 a Gemm broadcasts in another way" if context.opset < BROADCASTS else "",
    )


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
