"""A part of the main graph as a model of its own: the nodes between known values and wanted ones."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import helper

from onnx_tucker.graph.nodes import bodies


def uses(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node takes, and those in the graphs that it holds."""
    yield from node.input
    for attribute in node.attribute:
        for body in bodies(attribute):
            yield from (value.name for value in body.output)
            for inner in body.node:
                yield from uses(inner)


Users = Mapping[str, Sequence[onnx.NodeProto]]


def users(nodes: Iterable[onnx.NodeProto]) -> Users:
    """The nodes that take each value, themselves or in the graphs that they hold."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        for name in dict.fromkeys(uses(node)):
            found.setdefault(name, []).append(node)
    return found


def between(nodes: Sequence[onnx.NodeProto], known: Collection[str], wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes, in order, that make the wanted values from the known ones."""
    there = set(known)
    needed, result = set(wanted) - there, []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            result.append(node)
            needed |= set(uses(node)) - there
    return result[::-1]


def model_of(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
    known: Mapping[str, NDArray[Any]],
    wanted: Iterable[str],
) -> bytes:
    """A model of some nodes.

    Args:
        model: the one that they are of.
        nodes: in order.
        tensors: initializers by name; those that are used are taken.
        known: values that may go in; those that are used do.
        wanted: the names of what comes out.
    """
    wanted = list(wanted)
    used = {*wanted, *(name for node in nodes for name in uses(node))}
    takes = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in known.items()
        if name in used
    ]
    gives = [onnx.ValueInfoProto(name=name) for name in wanted]
    held = [tensor for name, tensor in tensors.items() if name in used and name not in known]
    graph = helper.make_graph(nodes, "segment", takes, gives, held)
    sparse = [tensor for tensor in model.graph.sparse_initializer if tensor.values.name in used]
    graph.sparse_initializer.extend(sparse)
    made = helper.make_model(graph, ir_version=max(model.ir_version, 4), opset_imports=list(model.opset_import))
    made.functions.extend(model.functions)
    return made.SerializeToString(deterministic=True)


def probe(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """The model with the values `names` as its only outputs."""
    names = list(names)
    if names == [output.name for output in model.graph.output]:  # it may be large
        return model.SerializeToString(deterministic=True)
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return probed.SerializeToString(deterministic=True)
