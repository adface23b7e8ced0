"""The main graph, as the nodes behind a value are looked up in it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple

import onnx
from numpy.typing import NDArray

from onnx_tucker.graph.constant import Constant
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.nodes import STANDARD
from onnx_tucker.graph.segment import Users, users, uses


class View(NamedTuple):
    """The main graph, as the nodes behind a value are looked up in it.

    Attributes:
        model: the model.
        context: what is known of it.
        users: the nodes that take each value.
    """

    model: onnx.ModelProto
    context: Context
    users: Users

    @classmethod
    def of(cls, model: onnx.ModelProto, context: Context) -> View:
        """The main graph of a model."""
        return cls(model, context, users(model.graph.node))

    def outputs(self) -> set[str]:
        """Names of the model's outputs."""
        return {output.name for output in self.model.graph.output}

    def sums(self) -> dict[str, tuple[str, str]]:
        """By each value that nothing but one Add takes: the sum, and the other value that goes into it."""
        nodes = self.model.graph.node
        taken = Counter([*self.outputs(), *(name for node in nodes for name in uses(node))])
        found = {}
        for node in nodes:
            if node.op_type == "Add" and node.domain in STANDARD:
                for one, other in (node.input, reversed(node.input)):
                    if taken[one] == 1:
                        found[one] = (node.output[0], other)
        return found

    def constant(self, name: str) -> Constant | None:
        """The constant that a value is, if it can be read and callers cannot give another; None for anything else."""
        constants = self.context.constants
        return constants.fixed(name, constants.main)

    def number(self, name: str) -> NDArray[Any] | None:
        """The constant of one element that a value is, as an array; None for anything else."""
        constant = self.constant(name)
        return constant.read() if constant is not None and math.prod(constant.shape) == 1 else None
