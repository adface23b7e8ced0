"""What a model's outputs are made of: classes that are compared, values put together, or what is chosen of others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx

from onnx_tucker.graph.behind import SHAPERS
from onnx_tucker.graph.elementwise import OPERATORS
from onnx_tucker.graph.fold import SIZES
from onnx_tucker.graph.nodes import SOFTMAXES, STANDARD, attributes, opset_of, softmax_axis
from onnx_tucker.graph.segment import uses
from onnx_tucker.graph.view import View

MOVERS = (*SHAPERS, "Transpose")
"""Operators that give all values as they are, each at some place."""
SELECTIONS = ("Compress", "NonMaxSuppression", "NonZero", "Unique")
"""Operators that select as many values as there are of some kind."""
CHOOSERS = (*SELECTIONS, "ArgMax", "ArgMin", "TopK")
"""Operators that choose among values: a small change of these may change all that follows, or nothing."""
STATEMENTS = ("And", "Cast", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Not", "Or", "QuantizeLinear")
"""Operators that make truths and whole numbers of values, or of other such."""
SCORED = (*SOFTMAXES, "Sigmoid")
"""Operators that make probabilities of scores."""
CONVOLUTIONS = ("Conv", "ConvTranspose", "FusedConv")
"""Operators that give channels along the second axis."""
PLACED = (
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "Dropout",
    "InstanceNormalization",
    "MaxPool",
    "Resize",
    "Upsample",
)
"""Operators besides those of single values that leave the channels where they are."""
PRODUCTS = ("FusedGemm", "FusedMatMul", "Gemm", "MatMul")
"""Operators that give vectors along the last axis."""


@dataclass(frozen=True)
class Maker:
    """What an output comes from.

    Attributes:
        operator: that it comes from before it is put into another shape or order, as a Softmax.
        axis: of the output, along which it compares, if it does and that is known.
        scores: name of the scores that it makes the output itself from; empty where it makes none of scores, or the
            output has other places than these.
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
    axis = softmax_axis(attributes(node), opset_of(model)) if node.op_type in SOFTMAXES else None
    rank = len(orders[0]) if orders and all(orders) else 0
    if axis is not None and orders:
        axis = axis % rank if rank else None
    for order in reversed(orders):
        axis = None if axis is None or not order else [*order].index(axis)
    return Maker(node.op_type, axis, node.input[0] if name == output and node.op_type in SCORED else "")


def class_axes(view: View) -> dict[str, int | None]:
    """Along which axis of the values of the main graph their classes would lie, by name.

    That is what a value compares along, or where its channels are; None where it is not known.
    """
    axes: dict[str, int | None] = {}
    for node in view.model.graph.node:
        axis, kind, given = None, node.op_type, attributes(node)
        if kind in SOFTMAXES:
            axis = softmax_axis(given, view.context.opset)
        elif kind in PRODUCTS:
            axis = -1
        elif kind in CONVOLUTIONS:
            axis = 1
        elif kind == "Transpose" and given.get("perm"):
            before, order = axes.get(node.input[0]), list(given["perm"])
            axis = None if before is None else order.index(before % len(order))
        elif kind in PLACED:
            axis = axes.get(node.input[0])
        elif kind in OPERATORS:
            varying = {axes.get(name) for name in node.input if view.constant(name) is None}
            axis = varying.pop() if len(varying) == 1 else None
        axes |= dict.fromkeys(node.output, axis)
    return axes


def joined(view: View, value: str) -> list[str]:
    """The values that a value of the main graph is a concatenation of, through reshapes and transposes.

    Constants and inputs of the model are left out. It is the value itself where that is no concatenation.
    """
    makers = _makers(view)
    found, seen, left = list[str](), set[str](), [value]
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        node = _unmoved(makers, name)
        if node is not None and node.op_type == "Concat":
            left.extend(reversed(node.input))
        elif name in makers and view.constant(name) is None:
            found.append(name)
    return found


def scores(view: View, value: str) -> str | None:
    """The scores that a value of the main graph is the Softmax of, in whatever shape and order; None if it is not."""
    makers = _makers(view)
    node = _unmoved(makers, value)
    if node is None or node.op_type != "Softmax":
        return None
    found = node.input[0]
    return found if found in makers and view.constant(found) is None else None


def _makers(view: View) -> dict[str, onnx.NodeProto]:
    """The nodes of the main graph by the names of what they make."""
    return {name: node for node in view.model.graph.node for name in node.output if name}


def _unmoved(makers: Mapping[str, onnx.NodeProto], value: str) -> onnx.NodeProto | None:
    """The node of onnx's own operators that makes a value, before that is put into another shape or order."""
    node = makers.get(value)
    while node is not None and node.domain in STANDARD and node.op_type in MOVERS:
        node = makers.get(node.input[0])
    return node if node is not None and node.domain in STANDARD else None


def chosen(view: View, layers: Collection[str]) -> dict[str, list[str]]:
    """The outputs that follow from a choice, by index or by comparison, with the values that this is made from.

    Args:
        view: the main graph.
        layers: what the nodes with weights give that may change.

    Returns:
        Nothing where one of these comes behind such a choice itself, as in a detector with two stages.
    """
    sources, makers = dict[str, dict[str, None]](), dict[str, onnx.NodeProto]()
    varying = set(layers)
    for node in view.model.graph.node:
        taken = [name for name in uses(node) if name in varying]
        if not taken or node.op_type in SIZES:
            continue
        made = [name for name in node.output if name]
        varying.update(made)
        makers |= dict.fromkeys(made, node)
        choice = node.op_type in CHOOSERS and node.domain in STANDARD
        if choice or not sources.keys().isdisjoint(taken):
            if not set(layers).isdisjoint(made):
                return {}
            before = {source: None for name in taken for source in sources.get(name) or _compared(makers, name)}
            sources |= dict.fromkeys(made, before)
    return {output: [*sources[output]] for output in sorted(view.outputs()) if output in sources}


def _compared(makers: Mapping[str, onnx.NodeProto], value: str) -> Iterator[str]:
    """The values that a truth, or a whole number, says something of; itself for others.

    Args:
        makers: the nodes that make values which vary.
        value: the name of one.
    """
    seen, left = {value}, [value]
    while left:
        name = left.pop()
        node = makers.get(name)
        if node is None or node.op_type not in STATEMENTS or node.domain not in STANDARD:
            yield name
            continue
        fresh = [taken for taken in node.input if taken in makers and taken not in seen]
        seen.update(fresh)
        left.extend(reversed(fresh))
