"""Puts chains into a copy of the model, in place of the nodes that they approximate."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tucker.forms import DIRECT, FORMS
from onnx_tucker.graph import provenance
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.lower import frames
from onnx_tucker.graph.lower.layout import Layout, lay_out
from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.graph.nodes import Names, Scope, places
from onnx_tucker.graph.piece import Ends, Piece, build, inherit
from onnx_tucker.types import Candidate


def splice(
    model: onnx.ModelProto,
    planned: Mapping[str, Candidate],
    weights: Mapping[str, list[onnx.TensorProto]],
    found: Sequence[Found],
    context: Context,
) -> onnx.ModelProto:
    """A copy of the model with a chain in the place of each planned node, and frames between those on frames.

    What only the replaced weights needed goes with them, and one metadata entry says what was done.

    Args:
        model: the model; it is not changed.
        planned: what nodes become, by label.
        weights: what `store` gave for each of them; nodes that share weights share the list.
        found: all weight-bearing nodes.
        context: all nodes.
    """
    names = Names(model)
    for tensors in weights.values():
        names.take(tensor.name for tensor in tensors)
    layout = layout_of(context, planned, names)
    replaced, pieces = [f for f in found if f.label in planned], dict[str, Piece]()
    for one in replaced:
        label, node = one.label, one.place.node
        framed = FORMS[planned[label].form].on_frames
        ends = Ends(layout.frames(node.input[0]), layout.made[node.output[0]].name) if framed else None
        pieces[label] = build(one, planned[label], weights[label], context, names, ends)
    chains, constants = _laid_out({label: piece.nodes for label, piece in pieces.items()}, layout, context, names)
    adding = [(f.place.scope, p.adding) for f, p in zip(replaced, pieces.values(), strict=True) if p.adding]
    result = onnx.ModelProto()
    result.CopyFrom(model)
    copies = {place.label: place for place in places(result)}
    twins = {f.scope: copies[f.label].scope for f in context.places}
    rebiased = [f for f in replaced if len(weights[f.label]) > len(planned[f.label].stages)]
    biases = [f.reading.added.constant.value for f in rebiased if f.reading.added]
    dead = context.constants.freed([*(f.seat.weight.value for f in replaced), *biases])
    changed = [place for place in context.places if place.label in chains]
    told = [(place.scope, _number(place.node, sizes)) for place, sizes in context.constants.sizes(dead)]
    for scope in dict.fromkeys([*(place.scope for place in changed), *(of for of, _ in told)]):
        here = {place.node.output[0]: chains[place.label] for place in changed if place.scope is scope}
        here |= {node.output[0]: [node] for of, node in (*adding, *told) if of is scope}
        _replace(twins[scope].graph, here)
    _add_weights(result, Scope(result.graph), constants)
    for scope in dict.fromkeys(value.scope for value in dead):
        _remove(twins[scope].graph, {value.name for value in dead if value.scope is scope})
    gone = layout.made.keys() - layout.left
    _forget(result.graph, gone)
    for one in replaced:
        piece, scope = pieces[one.label], twins[one.seat.weight.origin.scope]
        if one.group == one.label:
            _add_weights(result, scope, piece.weights)
        _add_weights(result, scope, list(piece.constants))
    recipes = {
        label: provenance.Recipe(c.method, c.ranks, c.form, tuple(tensor.name for tensor in weights[label]))
        for label, c in planned.items()
        if c.changes
    }
    own = {tensor.name for tensor in (*constants, *(one for piece in pieces.values() for one in piece.constants))}
    provenance.record(result, _made(chains, planned, context, own), recipes)
    return result


def _number(node: onnx.NodeProto, value: NDArray[np.int64]) -> onnx.NodeProto:
    """What gives the same as a node that tells the size of a weight which is gone."""
    return onnx.helper.make_node("Constant", [], node.output, node.name, value=onnx.numpy_helper.from_array(value))


def _made(
    chains: Mapping[str, Sequence[onnx.NodeProto]],
    planned: Mapping[str, Candidate],
    context: Context,
    constants: Collection[str],
) -> provenance.Chains:
    """What is new in a model, by name."""
    known = {name for place in context.places for name in place.node.output}
    values = {label: {node.output[0] for node in nodes} - known for label, nodes in chains.items()}
    direct = {label for label, candidate in planned.items() if FORMS[candidate.form] == DIRECT}
    lowered = [name for label, names in values.items() if label not in direct for name in (label, *names)]
    changed = frozenset(label for label, candidate in planned.items() if candidate.changes)
    new = frozenset().union(*values.values())
    return provenance.Chains(changed, new, frozenset(lowered), frozenset(constants))


def layout_of(context: Context, planned: Mapping[str, Candidate], names: Names) -> Layout:
    """The layout that goes with what nodes become, by label."""
    return lay_out(context, {label for label, c in planned.items() if FORMS[c.form].on_frames}, names)


def _laid_out(
    chains: Mapping[str, list[onnx.NodeProto]], layout: Layout, context: Context, names: Names
) -> tuple[dict[str, list[onnx.NodeProto]], list[onnx.TensorProto]]:
    """The chains, and the nodes that work on frames, with conversions of values before and after them."""
    result = {label: list(nodes) for label, nodes in chains.items()}
    constants: list[onnx.TensorProto] = []
    for place in context.places:
        label, node = place.label, place.node
        if label in layout.carriers:
            writer = Writer(names, f"{label}/frames", context.opset)
            carrier = layout.carriers[label]
            data = [layout.made[node.input[i]] for i in carrier.data]
            out = layout.made.get(node.output[0])
            carrier.emit(writer, node, data, out.name if out else node.output[0])
            inherit(writer.nodes, node)
            result[label] = writer.nodes
            constants += writer.constants
        if label in chains and node.input[0] in layout.entered and layout.entered[node.input[0]].first == label:
            writer = Writer(names, f"{node.input[0]}/frames", context.opset)
            frames.enter(writer, node.input[0], layout.entered[node.input[0]].frames)
            result[label] = [*writer.nodes, *result[label]]
            constants += writer.constants
        if label in result and node.output[0] in layout.left:
            writer = Writer(names, f"{node.output[0]}/leave", context.opset)
            frames.leave(writer, layout.made[node.output[0]], node.output[0])
            result[label] += writer.nodes
            constants += writer.constants
    return result, constants


def _replace(graph: onnx.GraphProto | onnx.FunctionProto, chains: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Puts each chain in the place of the node with that first output."""
    for index in reversed(range(len(graph.node))):
        output = next(iter(graph.node[index].output), "")
        if output in chains:
            del graph.node[index]
            for node in reversed(chains[output]):
                graph.node.insert(index, node)


def _remove(graph: onnx.GraphProto | onnx.FunctionProto, names: set[str]) -> None:
    """Removes what defines the values `names`, and what is said of them."""
    _filter(graph.node, lambda node: not node.output or not names.issuperset(filter(None, node.output)))
    if isinstance(graph, onnx.GraphProto):
        for values in (graph.initializer, graph.input):
            _filter(values, lambda value: value.name not in names)
        _forget(graph, names)


def _forget(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Removes what is said of values."""
    _filter(graph.value_info, lambda value: value.name not in names)
    _filter(graph.quantization_annotation, lambda annotation: annotation.tensor_name not in names)


def _filter(values: Any, keep: Any) -> None:
    for index in reversed(range(len(values))):
        if not keep(values[index]):
            del values[index]


def _add_weights(model: onnx.ModelProto, scope: Scope, weights: list[onnx.TensorProto]) -> None:
    """Moves initializers to the graph that held the old weight, or to the main graph where bodies can have none."""
    listed = model.ir_version < 4  # there, every initializer has to be an input too
    graph = model.graph if listed or isinstance(scope.graph, onnx.FunctionProto) else scope.graph
    for i, weight in enumerate(weights):
        graph.initializer.append(weight)
        weights[i] = graph.initializer[-1]  # appending copies; the copy takes the place of the original
    if listed:
        graph.input.extend(onnx.helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights)
