"""Other operators that multiply by a weight matrix: reported, and left alone."""

from __future__ import annotations

import math
from dataclasses import replace

from onnx_tucker.graph.constants import FLOATS
from onnx_tucker.graph.nodes import STANDARD, Place
from onnx_tucker.graph.ops.op import Context, Reading, refuse

HOLDERS = frozenset(("DeformConv", "Einsum", "GRU", "LSTM", "RNN"))
"""Standard operators that multiply by a weight matrix; those of other domains are taken to do so."""


def read(place: Place, context: Context) -> Reading | None:
    """A reading of a node that multiplies by a weight matrix, or None."""
    if place.node.op_type not in HOLDERS and place.node.domain in STANDARD:
        return None
    held = [context.constant(place, i) for i in range(len(place.node.input))]
    params = sum(
        math.prod(constant.tensor.dims)
        for constant in held
        if constant and constant.tensor.data_type in FLOATS and sum(size > 1 for size in constant.tensor.dims) >= 2
    )
    return replace(refuse(place, f"{place.node.op_type} is not factorised"), params=params) if params else None
