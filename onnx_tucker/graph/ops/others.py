"""Other operators that multiply by a weight matrix: reported, and left alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    constants = filter(None, (context.constant(place, i) for i in range(len(place.node.input))))
    held = {c.origin: c.tensor for c in constants if c.tensor.data_type in FLOATS and _is_matrix(c.tensor.dims)}
    if not held:
        return None
    params = sum(math.prod(tensor.dims) for tensor in held.values())
    reading = refuse(place, f"{place.node.op_type} is not factorised")
    return replace(reading, params=params, origins=frozenset(held))


def _is_matrix(dims: Sequence[int]) -> bool:
    return sum(size > 1 for size in dims) >= 2
