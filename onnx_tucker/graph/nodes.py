"""Looking at nodes: attributes, unique labels, and every node of every scope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import onnx
from onnx import AttributeProto, helper


class Place(NamedTuple):
    """A node, the label that names it in reports, plans and ranks files, and the scope it is in ("" = main graph)."""

    label: str
    node: onnx.NodeProto
    scope: str


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes as Python values, strings decoded."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {k: v.decode() if isinstance(v, bytes) else v for k, v in values.items()}


def places(model: onnx.ModelProto) -> Iterator[Place]:
    """Every node, in the order of the file: main graph with the bodies in it, then model-local functions.

    A label is the node's name, or its first output where it has no name or shares it; labels within a body start
    with the label of the node that holds it. No two are the same.
    """
    taken: set[str] = set()
    yield from _within(model.graph.node, "", "", taken)
    for function in model.functions:
        label = f"{function.domain}.{function.name}" if function.domain else function.name
        yield from _within(function.node, f"{label}/", f"the model-local function {label}", taken)


def _within(nodes: Sequence[onnx.NodeProto], prefix: str, scope: str, taken: set[str]) -> Iterator[Place]:
    names = Counter(node.name for node in nodes)
    for node in nodes:
        own = node.name if names[node.name] == 1 else ""
        label = _free(prefix + (own or next((o for o in node.output if o), node.op_type)), taken)
        yield Place(label, node, scope)
        for attribute in node.attribute:
            for body in bodies(attribute):
                where = scope or f"a body of the {node.op_type} node {label}"
                yield from _within(body.node, f"{label}/{attribute.name}/", where, taken)


def bodies(attribute: onnx.AttributeProto) -> Sequence[onnx.GraphProto]:
    """The graphs that an attribute holds."""
    return [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of every scope: initializers, and those in attributes of nodes."""
    for place in places(model):
        for attribute in place.node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
    for graph in _graphs(model):
        yield from graph.initializer


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every body."""
    yield model.graph
    for place in places(model):
        for attribute in place.node.attribute:
            yield from bodies(attribute)


def _free(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with a number behind it where that is taken; takes it."""
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name


class Names:
    """Hands out names that no value, initializer or node of a model has, in any scope."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken: set[str] = set()
        for place in places(model):
            self._taken.update([place.node.name, *place.node.input, *place.node.output])
        for graph in _graphs(model):
            for values in (graph.input, graph.output, graph.value_info, graph.initializer):
                self._taken.update(value.name for value in values)
            self._taken.update(tensor.values.name for tensor in graph.sparse_initializer)

    def fresh(self, wanted: str) -> str:
        """`wanted`, or with a number behind it where that is taken."""
        return _free(wanted, self._taken)
