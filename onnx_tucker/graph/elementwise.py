"""Activations as functions of single values, however exporters write them: as one operator or as many."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tucker.factor.sight import GRID, REACH, Curve
from onnx_tucker.graph.fold import evaluate
from onnx_tucker.graph.nodes import STANDARD, Scope
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.graph.segment import Users

OPERATORS = frozenset(
    "Abs Add Celu Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Max Min Mish Mul Neg Pow Relu "
    "Selu Sigmoid Softplus Softsign Sqrt Sub Swish Tanh ThresholdedRelu".split()
)
"""Those that activations are made of, which take every value by itself."""
LONGEST = 16
"""Nodes of an activation at most."""
FAR, CLOSE = np.array([-2 * REACH, 2 * REACH]), 1e-2
"""Where an activation has to be about as straight as it is at the end of the grid, and how far off it may be."""


class View(NamedTuple):
    """The main graph, as the nodes behind a value are looked up in it.

    Attributes:
        model: the model.
        context: what is known of it.
        users: the nodes that take each value.
        scope: the main graph.
    """

    model: onnx.ModelProto
    context: Context
    users: Users
    scope: Scope

    @property
    def outputs(self) -> set[str]:
        """Names of the model's outputs."""
        return {output.name for output in self.model.graph.output}

    def number(self, name: str) -> NDArray[Any] | None:
        """The constant of one element that a value is; None for anything else."""
        constant = self.context.constants.find(name, self.scope)
        return constant.read() if constant is not None and math.prod(constant.shape) == 1 else None


def activation(view: View, value: str, before: Curve | None) -> tuple[Curve, str] | None:
    """What the nodes next to a value make of each element by itself, as far as its first single result.

    Args:
        view: the graph.
        value: the name of the value.
        before: what the elements have become already; None for themselves.

    Returns:
        The curve, and the name of the result; None where something else takes a part of it, or it is no curve.
    """
    nodes, end = _next(view, value)
    curve = _curve(view, nodes, value, end, before) if nodes else None
    return None if curve is None else (curve, end)


def _next(view: View, value: str) -> tuple[list[onnx.NodeProto], str]:
    """The nodes up to the first value through which all goes, and its name; no nodes where there is none."""
    nodes: list[onnx.NodeProto] = []
    made, outputs = {value: None}, view.outputs
    while len(nodes) < LONGEST:
        taken = {id(node) for node in nodes}
        left = {name: [node for node in view.users.get(name, ()) if id(node) not in taken] for name in made}
        open_ = [name for name, waiting in left.items() if waiting or name in outputs]
        if nodes and len(open_) == 1 and open_ != [value]:
            return nodes, open_[0]
        ready = (node for waiting in left.values() for node in waiting if _follows(view, node, made))
        following = next(ready, None)
        if following is None:
            break
        nodes.append(following)
        made[following.output[0]] = None
    return [], value


def _follows(view: View, node: onnx.NodeProto, made: Collection[str]) -> bool:
    """Whether a node makes something of the values and of numbers alone."""
    if node.op_type not in OPERATORS or node.domain not in STANDARD:
        return False
    return all(not name or name in made or view.number(name) is not None for name in node.input)


def _curve(view: View, nodes: Sequence[onnx.NodeProto], value: str, end: str, before: Curve | None) -> Curve | None:
    """What nodes make of a value; None where that cannot be computed, or does not go on straight."""
    places = np.concatenate([FAR[:1], GRID, FAR[1:]])
    values: dict[str, NDArray[Any]] = {value: (places if before is None else before.of(places)).astype(np.float32)}
    for node in nodes:
        numbers = {name: view.number(name) for name in node.input if name and name not in values}
        values |= {name: number for name, number in numbers.items() if number is not None}
        made = evaluate(node, {name: values[name] for name in node.input if name}, view.model)
        if made is None:
            return None
        values |= made
    result = values[end].ravel().astype(np.float64)
    if result.shape != places.shape or not np.isfinite(result).all():
        return None
    curve = Curve(result[1:-1])
    return curve if np.allclose(curve.of(FAR), result[[0, -1]], rtol=CLOSE, atol=CLOSE * REACH) else None
