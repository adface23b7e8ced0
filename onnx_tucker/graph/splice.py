"""Puts chains into a copy of the model, in place of the nodes that they approximate.

graphsurgeon builds the new nodes only. The user's own graph never passes through it, so that whatever is not
factorised stays as it is, field by field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.ops import OPS
from onnx_tucker.graph.ops.op import Context, Emission
from onnx_tucker.types import Chain


class Piece(NamedTuple):
    """The nodes and weights of one chain, ready to go into a model."""

    nodes: list[onnx.NodeProto]
    weights: list[onnx.TensorProto]


def build(found: Found, method: str, chain: Chain, context: Context, names: Names) -> Piece:
    """The nodes of a chain in the place of one node, named `{node}/{method}/0` and so on.

    The last one keeps the node's name, documentation, metadata and output.
    """
    node, op = found.place.node, OPS[found.place.node.op_type]
    dtype, label = found.site.weight.dtype, found.place.label
    own = [names.fresh(f"{label}/{method}/{i}") for i in range(len(chain.stages) - 1)]
    weights = [
        gs.Constant(
            names.fresh(f"{label}/{method}/{i}/weight"),
            np.ascontiguousarray(op.stored(node, f).astype(dtype, copy=False)),
        )
        for i, f in enumerate(chain.factors)
    ]
    values = [gs.Variable(name) for name in (node.input[0], *own, node.output[0])]
    emitted = op.emit(Emission(node, chain.stages, weights, values, context.opset))
    graph = gs.Graph(emitted, inputs=[], outputs=[], opset=context.opset)
    exported = gs.export_onnx(graph, do_type_check=False).graph
    nodes = list(exported.node)
    for name, new in zip(own, nodes[:-1], strict=True):
        new.name = name
    last = nodes[-1]
    last.name, last.domain, last.doc_string = node.name, node.domain, node.doc_string
    last.metadata_props.extend(node.metadata_props)
    return Piece(nodes, list(exported.initializer))


def splice(model: onnx.ModelProto, pieces: Mapping[str, Piece], found: list[Found]) -> onnx.ModelProto:
    """A copy of the model with each piece in the place of the node whose label it goes by."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    by_output = {f.place.node.output[0]: pieces[f.place.label] for f in found if f.place.label in pieces}
    old_weights = {f.place.node.input[1] for f in found if f.place.label in pieces}
    for index in reversed(range(len(graph.node))):
        piece = next((by_output[o] for o in graph.node[index].output[:1] if o in by_output), None)
        if piece is not None:
            del graph.node[index]
            for node in reversed(piece.nodes):
                graph.node.insert(index, node)
    _remove(graph.initializer, old_weights)
    _remove(graph.value_info, old_weights)
    weights = [w for f in found if f.place.label in pieces for w in pieces[f.place.label].weights]
    graph.initializer.extend(weights)
    if model.ir_version < 4:  # there, every initializer has to be an input too
        _remove(graph.input, old_weights)
        graph.input.extend(onnx.helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)) for w in weights)
    for index in reversed(range(len(graph.quantization_annotation))):
        if graph.quantization_annotation[index].tensor_name in old_weights:
            del graph.quantization_annotation[index]
    return result


def _remove(values: object, names: set[str]) -> None:
    for index in reversed(range(len(values))):  # type: ignore[arg-type]
        if values[index].name in names:  # type: ignore[index]
            del values[index]  # type: ignore[attr-defined]
