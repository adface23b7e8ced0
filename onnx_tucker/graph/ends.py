"""What a model's outputs are made of: classes that are compared, or values of several kinds put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnx_tucker.graph.behind import SHAPERS
from onnx_tucker.graph.elementwise import View
from onnx_tucker.graph.nodes import STANDARD, attributes, opset_of

MOVERS = (*SHAPERS, "Transpose")
"""Operators that give all values as they are, each at some place."""
PRODUCTS = ("FusedGemm", "FusedMatMul", "Gemm", "MatMul")
"""Operators that give vectors along the last axis."""


@dataclass(frozen=True)
class Maker:
    """What an output comes from.

    Attributes:
        operator: that it comes from before it is put into another shape or order, as a Softmax.
        axis: of the output, along which it compares, if it does and that is known.
        scores: name of what it makes the output itself from; empty where the output has other places than that.
    """

    operator: str = ""
    axis: int | None = None
    scores: str = ""


def maker(model: onnx.ModelProto, output: str) -> Maker:
    """What an output of the main graph comes from."""
    nodes, name = {made: node for node in model.graph.node for made in node.output}, output
    orders: list[list[int]] = []
    while name in nodes and nodes[name].op_type in MOVERS:
        orders.append(attributes(nodes[name]).get("perm", []) if nodes[name].op_type == "Transpose" else [])
        name = nodes[name].input[0]
    if name not in nodes:
        return Maker()
    node = nodes[name]
    last = -1 if opset_of(model) >= 13 else 1
    axis = attributes(node).get("axis", last) if node.op_type in ("Softmax", "LogSoftmax") else None
    rank = len(orders[0]) if orders and all(orders) else 0
    if axis is not None and orders:
        axis = axis % rank if rank else None
    for order in reversed(orders):
        axis = None if axis is None or not order else [*order].index(axis)
    return Maker(node.op_type, axis, next(iter(node.input), "") if name == output else "")


def class_axis(view: View, output: str) -> int:
    """Along which axis of an output its classes would lie: what it compares along, or where its channels are."""
    found = maker(view.model, output)
    if found.axis is not None:
        return found.axis
    nodes, name = {made: node for node in view.model.graph.node for made in node.output}, output
    while name in nodes and nodes[name].op_type in ("Add", "Identity"):  # a bias
        varying = [value for value in nodes[name].input if view.constant(value) is None]
        if len(varying) != 1:
            break
        name = varying[0]
    return -1 if name in nodes and nodes[name].op_type in PRODUCTS else 1


def joined(view: View) -> dict[str, list[str]]:
    """The outputs that are other values of the main graph one after another, in whatever shape, with those values.

    Those that are constants, inputs or outputs themselves are left out.
    """
    makers = {name: node for node in view.model.graph.node for name in node.output if name}
    own = makers.keys() - view.outputs()
    found = {output: dict.fromkeys(_parts(makers, output)) for output in sorted(view.outputs())}
    parts = {o: [name for name in names if name in own and view.constant(name) is None] for o, names in found.items()}
    return {output: names for output, names in parts.items() if len(names) > 1}


def _parts(makers: Mapping[str, onnx.NodeProto], name: str) -> Sequence[str]:
    """What a value is put together from; itself if nothing is."""
    node = makers.get(name)
    while node is not None and node.domain in STANDARD and node.op_type in MOVERS:
        node = makers.get(node.input[0])
    if node is None or node.domain not in STANDARD or node.op_type != "Concat":
        return [name]
    return [part for value in node.input for part in _parts(makers, value)]
