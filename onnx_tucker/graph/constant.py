"""A value that is the same on every run: where it comes from, and how it is read.

A weight may be an initializer or the output of a Constant node, of this graph or of one around it. It may pass through
nodes that only arrange its values (`ARRANGING`) on its way to the node that multiplies by it, or be computed from
constants (`COMPUTING`), as normalised, masked and quantised weights are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnx_tucker.errors import ModelError
from onnx_tucker.graph import external
from onnx_tucker.graph.fold import evaluate
from onnx_tucker.graph.nodes import Scope

ARRANGING = frozenset(
    ("Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that give the values of their first input in another shape, order or type."""
COMPUTING = ARRANGING | frozenset(
    "Abs Add BatchNormalization Ceil Clip Concat Div Exp Expand Floor Gather Log Max Mean Min Mul Neg Pad Pow "
    "QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare "
    "Round Shape Sigmoid Sign Slice Split Sqrt Sub Sum Tanh Where".split()
)
"""Operators that are evaluated where all that they take is constant."""
PARTING = frozenset(("Slice", "Split"))
"""Those that give a part of what they take, beside which there are others."""
FEW = 4096
"""Values of a shape or a scale, at most."""
CODES = (
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.UINT32,
    TensorProto.INT64,
)
"""Element types of what stands for weights."""
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Element types of weights that are factorised."""


class Value(NamedTuple):
    """A value, by the scope that defines it and its name there."""

    scope: Scope
    name: str


class Step(NamedTuple):
    """A node that makes one constant from another.

    Attributes:
        node: the node.
        data: the name by which it takes that.
        others: what it takes besides (shapes, axes, scales), by name.
        output: what it gives.
    """

    node: onnx.NodeProto
    data: str
    others: Mapping[str, Constant]
    output: Value


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that is the same on every run.

    Attributes:
        value: the value itself.
        tensor: what it is made from: an initializer, or the tensor of a Constant node; the largest of several.
        origin: the initializer, or the output of the Constant node.
        steps: by which it is made from that, in the order of computation.
        model: what the nodes are from.
        folder: where the model's file is.
    """

    value: Value
    tensor: onnx.TensorProto
    origin: Value
    steps: tuple[Step, ...]
    model: onnx.ModelProto
    folder: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self._kind[0]

    @property
    def elem_type(self) -> int:
        """ONNX element type of the values."""
        return self._kind[1]

    @property
    def chain(self) -> tuple[Value, ...]:
        """What exists for this value alone, if nothing else uses it: origin or part of it, then every step's output."""
        parts = [i + 1 for i, step in enumerate(self.steps) if step.node.op_type in PARTING]
        return (self.origin, *(step.output for step in self.steps))[max(parts, default=0) :]

    @property
    def recipe(self) -> Hashable:
        """Alike for constants that are made of the same in the same way, be it by the same nodes or by others."""
        steps = []
        for node, _, others, made in self.steps:
            if node.op_type != "Identity":
                given = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
                taken = tuple(others[name].ingredient if name in others else not name for name in node.input)
                steps.append((node.op_type, given, taken, list(node.output).index(made.name)))
        return self.origin, tuple(steps)

    @property
    def ingredient(self) -> Hashable:
        """What tells it from others that a step may take: its values if they are in the model itself and few."""
        small = not (self.steps or external.is_external(self.tensor)) and math.prod(self.tensor.dims) <= FEW
        return (*self.tensor.dims, external.raw(self.tensor)) if small else self.recipe

    @property
    def arranged(self) -> bool:
        """Whether its values are those of the tensor, but for their order and type."""
        return all(step.node.op_type in ARRANGING for step in self.steps)

    @property
    def counted(self) -> Value:
        """What has all of its values, as they are stored or were computed last."""
        computed = [step.output for step in self.steps if step.node.op_type not in ARRANGING]
        return computed[-1] if computed else self.origin

    @property
    def count(self) -> int:
        """How many values that are."""
        return math.prod(self.tensor.dims) if self.arranged else math.prod(self.shape)

    @property
    def origins(self) -> frozenset[Value]:
        """All that it is made from."""
        others = (other.origins for step in self.steps for other in step.others.values())
        return frozenset([self.origin]).union(*others)

    @property
    def operators(self) -> list[str]:
        """The operators of all nodes that are evaluated to read it, as often as they are."""
        others = (op for step in self.steps for other in step.others.values() for op in other.operators)
        return [*(step.node.op_type for step in self.steps), *others]

    def read(self) -> NDArray[Any]:
        """The values; they are not kept in memory.

        Raises:
            ModelError: they cannot be read or computed.
        """
        array = external.values(self.tensor, self.folder)
        for node, data, others, made in self.steps:
            taken = {name: other.read() for name, other in others.items()}
            outputs = evaluate(node, {data: array, **taken}, self.model)
            if outputs is None:
                raise ModelError(f"The constant {made.name!r} cannot be computed from {data!r}.")
            array = outputs[made.name]
        return array

    @property
    def quantised(self) -> bool:
        """Whether the values are stored as integers and scaled on the way, or rounded as if they were."""
        return self.tensor.data_type in CODES or "DequantizeLinear" in self.operators

    @property
    def readable(self) -> bool:
        """Whether its values can be computed."""
        try:
            return self.shape is not None
        except ModelError:
            return False

    @cached_property
    def _kind(self) -> tuple[tuple[int, ...], int]:
        if not self.steps:
            return tuple(self.tensor.dims), self.tensor.data_type
        array = self.read()
        return array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)
