"""What the surroundings of a node say about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnx_tucker.graph.constant import FLOATS, Constant
from onnx_tucker.graph.constants import Constants
from onnx_tucker.graph.fold import Size
from onnx_tucker.graph.nodes import Place
from onnx_tucker.graph.shapes import Shapes


@dataclass(frozen=True, eq=False)
class Context:
    """What a node's surroundings say about it.

    Attributes:
        places: all nodes.
        constants: the values that are the same on every run.
        shapes: known shapes.
        fixed: shapes as far as the model itself fixes them; the sizes that it leaves free are names or None.
        opset: version of the standard operators, 0 where there are none.
        dequantize: whether weights that are stored as integers are factorised.
        seen: names of values besides the outputs that are to be there in what is made of the model.
    """

    places: Sequence[Place]
    constants: Constants
    shapes: Shapes
    fixed: Mapping[str, tuple[Size, ...]]
    opset: int
    dequantize: bool = False
    seen: frozenset[str] = frozenset()

    def constant(self, place: Place, index: int) -> Constant | None:
        """The constant that is the node's input `index`."""
        name = place.node.input[index] if index < len(place.node.input) else ""
        return self.constants.find(name, place.scope) if name else None

    def shape(self, place: Place, index: int) -> tuple[int, ...] | None:
        """The shape of the node's input `index`, where it is known."""
        return self.shapes.get(place.node.input[index])

    def objection(self, weight: Constant) -> str:
        """Why a constant cannot be factorised; empty if it can be."""
        if self.constants.overridable(weight):
            return "the weight is a graph input that callers may override; see --freeze-initializer-inputs"
        if weight.quantised and not self.dequantize:
            return "the weight is stored as integers; see --dequantize"
        if weight.elem_type not in FLOATS:
            name = str(TensorProto.DataType.Name(weight.elem_type)).lower()
            return f"weights of type {name} are not factorised"
        values = weight.read()
        if not values.size:
            return "the weight is empty"
        if not np.isfinite(values).all():
            return "the weight holds NaN or infinity"
        return "" if values.any() else "the weight is all zeros"
