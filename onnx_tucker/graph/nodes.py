"""Looking at nodes: attributes, scopes, unique labels, and every node and tensor of every scope."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import onnx
from onnx import helper

STANDARD = ("", "ai.onnx")
"""Names of the domain of the standard operators."""
SOFTMAXES = ("LogSoftmax", "Softmax")
"""Operators that make probabilities of classes, or their logarithms."""
SOFTMAX_OF_ONE_AXIS = 13
"""The first opset in which they compare along one axis only, and not over it and all behind it."""
UNKNOWN = "unknown"
"""A domain of which onnx knows nothing."""


@dataclass(frozen=True, eq=False)
class Scope:
    """A graph or function whose nodes see its own values, and a body also those of the graphs around it.

    Attributes:
        graph: what holds the nodes.
        outer: the scope of the node that holds this body; None for the main graph and for functions.
        function: name of the model-local function that this is, or is in; empty elsewhere.
    """

    graph: onnx.GraphProto | onnx.FunctionProto
    outer: Scope | None = None
    function: str = ""


class Place(NamedTuple):
    """A node, the label that names it in reports, plans and ranks files, and the scope it is in."""

    label: str
    node: onnx.NodeProto
    scope: Scope


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The node's attributes as Python values, strings decoded; those that refer to a function's are left out."""
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    return {k: v.decode(errors="replace") if isinstance(v, bytes) else v for k, v in values.items()}


def places(model: onnx.ModelProto) -> Iterator[Place]:
    """Every node, in the order of the file: main graph with the bodies in it, then model-local functions.

    A label is the node's name, or its first output where it has no name or shares it; labels within a body start
    with the label of the node that holds it. No two are the same.
    """
    taken: set[str] = set()
    yield from _within(Scope(model.graph), "", taken)
    for function in model.functions:
        label = ".".join(filter(None, (function.domain, function.name, function.overload)))
        yield from _within(Scope(function, function=label), f"{label}/", taken)


def _within(scope: Scope, prefix: str, taken: set[str]) -> Iterator[Place]:
    names = Counter(node.name for node in scope.graph.node)
    for node in scope.graph.node:
        own = node.name if names[node.name] == 1 else ""
        label = _free(prefix + (own or next((o for o in node.output if o), node.op_type)), taken)
        yield Place(label, node, scope)
        for attribute in node.attribute:
            for body in bodies(attribute):
                yield from _within(Scope(body, scope, scope.function), f"{label}/{attribute.name}/", taken)


def bodies(attribute: onnx.AttributeProto) -> Sequence[onnx.GraphProto]:
    """The graphs that an attribute holds."""
    return [attribute.g] if attribute.HasField("g") else attribute.graphs


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph, every body, and the graphs of the training information."""
    yield model.graph
    for training in model.training_info:
        yield training.initialization
        yield training.algorithm
    for place in places(model):
        for attribute in place.node.attribute:
            yield from bodies(attribute)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of every scope: initializers, and those in attributes of nodes."""
    nodes = [place.node for place in places(model)]
    for graph in graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for training in model.training_info:
        nodes += [*training.initialization.node, *training.algorithm.node]
    defaults = [attribute for function in model.functions for attribute in function.attribute_proto]
    for attribute in (*defaults, *(attribute for node in nodes for attribute in node.attribute)):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators; 0 where the model imports none."""
    return next((o.version for o in model.opset_import if o.domain in STANDARD), 0)


def inputs_of(model: onnx.ModelProto) -> list[str]:
    """Names of the inputs of the main graph, without initializers, which are among them before version 4 of the format.

    From then on that an initializer is listed there means that callers may give another value.
    """
    held = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in held]


def softmax_axis(given: Mapping[str, Any], opset: int) -> int:
    """The axis along which one of `SOFTMAXES` with these attributes compares, in old opsets the first of several."""
    return int(given.get("axis", -1 if opset >= SOFTMAX_OF_ONE_AXIS else 1))


def name_standard(model: onnx.ModelProto) -> None:
    """Gives the domain of the standard operators its empty name, in place: not all tools know the other."""
    imports = (*model.opset_import, *(one for function in model.functions for one in function.opset_import))
    for imported in imports:
        if imported.domain in STANDARD:  # another may be no text, in a damaged model
            imported.domain = ""
    for place in places(model):
        if place.node.domain in STANDARD:
            place.node.domain = ""


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
        nodes = [place.node for place in places(model)]
        for graph in graphs(model):
            nodes += graph.node
            for values in (graph.input, graph.output, graph.value_info, graph.initializer):
                self._taken.update(value.name for value in values)
            self._taken.update(tensor.values.name for tensor in graph.sparse_initializer)
        for node in nodes:
            self._taken.update([node.name, *node.input, *node.output])

    def take(self, names: Iterable[str]) -> None:
        """Hands none of these names out."""
        self._taken.update(names)

    def fresh(self, wanted: str) -> str:
        """`wanted`, or with a number behind it where that is taken."""
        return _free(wanted, self._taken)
