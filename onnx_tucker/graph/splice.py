"""Puts chains into a copy of the model, in place of the nodes that they approximate.

graphsurgeon builds the new nodes only. The user's own graph never passes through it, so that whatever is not
factorised stays as it is, field by field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from onnx_tucker.graph import provenance
from onnx_tucker.graph.constants import Value
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names, Scope, places
from onnx_tucker.graph.ops import OPS
from onnx_tucker.graph.ops.op import Context, Emission
from onnx_tucker.types import Chain


class Piece(NamedTuple):
    """The nodes and weights of one chain, and the zeros that it adds; nodes that share a weight share its list.

    Once the piece is in a model, its weights are the model's own, so that they are in memory once.
    """

    nodes: list[onnx.NodeProto]
    weights: list[onnx.TensorProto]
    zeros: Sequence[onnx.TensorProto] = ()


def build(
    found: Found,
    method: str,
    chain: Chain,
    context: Context,
    names: Names,
    shared: list[onnx.TensorProto] | None = None,
) -> Piece:
    """The nodes of a chain in the place of one node, named `{node}/{method}/0` and so on.

    The last one keeps the node's name, documentation, metadata and output.

    Args:
        found: the node.
        method: name of the method, for names.
        chain: the factors.
        context: the node's surroundings.
        names: gives out new names.
        shared: the stored factors, where another node of the group has brought them.
    """
    node, seat, dtype, label = found.place.node, found.seat, found.site.dtype, found.place.label
    own = [names.fresh(f"{label}/{method}/{i}") for i in range(len(chain.stages) - 1)]
    tensors = shared
    if tensors is None:
        weights = [names.fresh(f"{label}/{method}/{i}/weight") for i in range(len(chain.stages))]
        stored = (seat.store(stage, factor) for stage, factor in zip(chain.stages, chain.factors, strict=True))
        tensors = [
            numpy_helper.from_array(np.ascontiguousarray(array.astype(dtype, copy=False)), name)
            for name, array in zip(weights, stored, strict=True)
        ]
    weights = [tensor.name for tensor in tensors]
    values = (node.input[seat.data], *own, node.output[0])
    emitted = OPS[node.op_type].emit(Emission(node, seat, chain.stages, weights, values, dtype, context.opset, names))
    exported = gs.export_onnx(gs.Graph(emitted, inputs=[], outputs=[], opset=context.opset), do_type_check=False).graph
    nodes = list(exported.node)
    for name, new in zip(own, nodes[:-1], strict=True):
        new.name = name
    last = nodes[-1]
    last.name, last.domain, last.doc_string = node.name, node.domain, node.doc_string
    last.metadata_props.extend(node.metadata_props)
    _configure(nodes, node)
    return Piece(nodes, tensors, list(exported.initializer))


def _configure(nodes: Sequence[onnx.NodeProto], node: onnx.NodeProto) -> None:
    """Runs a chain where its node was to run; only what was said of the weight's shards goes."""
    for configuration in node.device_configurations:
        for new in nodes:
            copy = new.device_configurations.add()
            copy.CopyFrom(configuration)
            del copy.sharding_spec[:]
            own = (*new.input, *new.output)
            copy.sharding_spec.extend(s for s in configuration.sharding_spec if s.tensor_name in own)


def splice(
    model: onnx.ModelProto, pieces: Mapping[str, Piece], found: Sequence[Found], context: Context
) -> onnx.ModelProto:
    """A copy of the model with each piece in the place of the node whose label it goes by.

    What only the replaced weights needed goes with them, and one metadata entry says what was done.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    replaced = [f for f in found if f.place.label in pieces]
    copies = {place.label: place for place in places(result)}
    twins = {f.scope: copies[f.label].scope for f in context.places}
    for scope in dict.fromkeys(one.place.scope for one in replaced):
        here = (one.place for one in replaced if one.place.scope is scope)
        _replace(twins[scope].graph, {place.node.output[0]: pieces[place.label].nodes for place in here})
    dead = _dead(replaced, context)
    for scope in dict.fromkeys(value.scope for value in dead):
        _remove(twins[scope].graph, {value.name for value in dead if value.scope is scope})
    for one in replaced:
        piece, scope = pieces[one.place.label], twins[one.seat.weight.origin.scope]
        if one.group == one.place.label:
            _add_weights(result, scope, piece.weights)
        _add_weights(result, scope, list(piece.zeros))
    provenance.record(result, pieces, [node.output[0] for piece in pieces.values() for node in piece.nodes[:-1]])
    return result


def _replace(graph: onnx.GraphProto | onnx.FunctionProto, chains: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Puts each chain in the place of the node with that first output."""
    for index in reversed(range(len(graph.node))):
        output = next(iter(graph.node[index].output), "")
        if output in chains:
            del graph.node[index]
            for node in reversed(chains[output]):
                graph.node.insert(index, node)


def _dead(replaced: Iterable[Found], context: Context) -> set[Value]:
    """Values that nothing needs once the nodes are replaced: their weights, and what those were made from."""
    weights = list({f.seat.weight.value: f.seat.weight for f in replaced}.values())
    dead = {value for weight in weights for value in weight.chain}
    parameters = [p.origin for weight in weights for p in weight.parameters]
    return dead | {value for value in parameters if context.constants.uses(value) == parameters.count(value)}


def _remove(graph: onnx.GraphProto | onnx.FunctionProto, names: set[str]) -> None:
    """Removes what defines the values `names`, and what is said of them."""
    _filter(graph.node, lambda node: names.isdisjoint(node.output[:1]))
    if isinstance(graph, onnx.GraphProto):
        for values in (graph.initializer, graph.input, graph.value_info):
            _filter(values, lambda value: value.name not in names)
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
