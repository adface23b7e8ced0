"""Activations as functions of single values, however exporters write them: as one operator or as many."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tucker.factor.sight import GRID, REACH, Curve
from onnx_tucker.graph.fold import evaluate
from onnx_tucker.graph.nodes import STANDARD
from onnx_tucker.graph.view import View

OPERATORS = frozenset(
    "Abs Add Celu Clip Div Elu Erf Exp Gelu HardSigmoid HardSwish Identity LeakyRelu Log Max Min Mish Mul Neg PRelu "
    "Pow Reciprocal Relu Selu Sigmoid Softplus Softsign Sqrt Sub Swish Tanh ThresholdedRelu".split()
)
"""Those that activations are made of, which take every value by itself."""
LONGEST = 16
"""Nodes of an activation at most."""
FAR = REACH * np.array([-16.0, -4.0, -2.0, 2.0, 4.0, 16.0])
"""Places beyond the grid where an activation has to go on straight."""
BETWEEN = (GRID[1:] + GRID[:-1]) / 2
"""Places between those of the grid, where it has to be about straight too."""
CLOSE = 1e-2
"""How far off it may be there, relative to how far its values lie apart."""


def activation(view: View, value: str, before: Curve | None) -> tuple[Curve, str] | None:
    """What the nodes next to a value make of each element by itself, as far as the first result that is a curve.

    Args:
        view: the graph.
        value: the name of the value.
        before: what the elements have become already; None for themselves.

    Returns:
        The curve, and the name of the result; None where there is none, as something else takes a part of the values.
    """
    for nodes, end in _results(view, value):
        curve = _curve(view, nodes, value, end, before)
        if curve is not None:
            return curve, end
    return None


def _results(view: View, value: str) -> Iterator[tuple[list[onnx.NodeProto], str]]:
    """The values through which all goes that is made of a value, one after another, each with the nodes before it."""
    nodes: list[onnx.NodeProto] = []
    made, outputs = {value: None}, view.outputs()
    while len(nodes) < LONGEST:
        taken = {id(node) for node in nodes}
        left = {name: [node for node in view.users.get(name, ()) if id(node) not in taken] for name in made}
        open_ = [name for name, waiting in left.items() if waiting or name in outputs]
        if nodes and len(open_) == 1 and open_ != [value]:
            yield list(nodes), open_[0]
        ready = (node for waiting in left.values() for node in waiting if _follows(view, node, made))
        following = next(ready, None)
        if following is None:
            return
        nodes.append(following)
        made[following.output[0]] = None


def _follows(view: View, node: onnx.NodeProto, made: Collection[str]) -> bool:
    """Whether a node makes something of the values and of numbers alone."""
    if node.op_type not in OPERATORS or node.domain not in STANDARD:
        return False
    return all(not name or name in made or view.number(name) is not None for name in node.input)


def _curve(view: View, nodes: Sequence[onnx.NodeProto], value: str, end: str, before: Curve | None) -> Curve | None:
    """What nodes make of a value; None where that cannot be computed, or is not straight where it has to be."""
    places = np.concatenate([GRID, BETWEEN, FAR])
    values: dict[str, NDArray[Any]] = {value: places if before is None else before.of(places)}
    for node in nodes:
        numbers = {name: view.number(name) for name in node.input if name and name not in values}
        values |= {name: _wide(number) for name, number in numbers.items() if number is not None}
        made = evaluate(node, {name: values[name] for name in node.input if name}, view.model)
        if made is None:
            return None
        values |= made
    result = values[end].ravel().astype(np.float64)
    if result.shape != places.shape or not np.isfinite(result).all():
        return None
    on, off = np.split(result, [len(GRID)])
    curve = Curve(on)
    close = np.abs(curve.of(places[len(GRID) :]) - off) <= CLOSE * np.ptp(on)
    return curve if close.all() else None


def _wide(number: NDArray[Any]) -> NDArray[Any]:
    """A number in double precision, as the places are, unless it is a whole one."""
    return number if number.dtype.kind in "biu" else number.astype(np.float64)
