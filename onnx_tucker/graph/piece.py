"""The nodes of one chain, and its weights as they are stored.

graphsurgeon builds the new nodes only. The user's own graph never passes through it, so that whatever is not
factorised stays as it is, field by field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import numpy_helper

from onnx_tucker.forms import DIRECT, FORMS, PLANE, TAPS
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.lower import frames, plane, taps
from onnx_tucker.graph.lower.frames import Frames
from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.ops import OPS
from onnx_tucker.graph.ops.op import Emission
from onnx_tucker.types import Array, Candidate, Chain


class Piece(NamedTuple):
    """The nodes of one chain, its weights, and the constants that it adds; nodes that share a weight share its list.

    Where the chain has a bias, but another node adds it, that one is replaced too. Once the piece is in a model, its
    weights are the model's own, so that they are in memory once.
    """

    nodes: list[onnx.NodeProto]
    weights: list[onnx.TensorProto]
    constants: Sequence[onnx.TensorProto] = ()
    adding: onnx.NodeProto | None = None


class Ends(NamedTuple):
    """The frames that a chain on frames takes, and the name of those that it makes."""

    x: Frames
    output: str


def store(found: Found, candidate: Candidate, chain: Chain, names: Names) -> list[onnx.TensorProto]:
    """The weights of a chain as initializers, in the order in which its form takes them, and last its own bias, if any.

    Args:
        found: the node.
        candidate: what it becomes.
        chain: the factors.
        names: gives out new names.
    """
    site, form = found.site, FORMS[candidate.form]
    size = site.size or ()
    tensors = []
    for i, (stage, factor) in enumerate(zip(chain.stages, chain.factors, strict=True)):
        if form.on_frames:
            array = frames.stored(stage, factor, form, size)
            size = stage.window.output_size(size)
        elif form == PLANE:
            array = plane.stored(stage, factor)
        elif form == TAPS:
            array = taps.stored(factor)
        else:
            array = found.seat.store(stage, factor)
        tensors.append(_tensor(array, site.dtype, names.fresh(f"{_prefix(found, candidate)}/{i}/weight")))
    if chain.bias is not None:
        bias = chain.bias
        if found.reading.added:  # with as many dimensions as before, which the output may have from it
            bias = bias.reshape(*found.reading.added.constant.shape[:-1], -1)
        tensors.append(_tensor(bias, site.dtype, names.fresh(f"{_prefix(found, candidate)}/bias")))
    return tensors


def _tensor(array: Array, dtype: np.dtype[Any], name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(array.astype(dtype, copy=False)), name)


def build(
    found: Found,
    candidate: Candidate,
    weights: list[onnx.TensorProto],
    context: Context,
    names: Names,
    ends: Ends | None = None,
) -> Piece:
    """The nodes of a chain in the place of one node, named `{node}/{method}/0` and so on.

    The last one keeps the node's name, documentation, metadata and output.

    Args:
        found: the node.
        candidate: what it becomes.
        weights: the stored weights.
        context: the node's surroundings.
        names: gives out new names.
        ends: where the form is on frames, what it takes and makes.
    """
    node, candidate = found.place.node, found.own(candidate)
    adding = _adding(found, weights[len(candidate.stages) :])
    if not candidate.changes:
        return Piece([_with_weights(found, weights)], weights, adding=adding)
    if FORMS[candidate.form] == DIRECT:
        nodes, constants = _direct(found, candidate, weights, context, names)
    else:
        writer = Writer(names, _prefix(found, candidate), context.opset)
        _lowered(found, candidate, [tensor.name for tensor in weights], writer, ends)
        nodes, constants = writer.nodes, writer.constants
    inherit(nodes, node)
    return Piece(nodes, weights, constants, adding)


def _with_weights(found: Found, weights: Sequence[onnx.TensorProto]) -> onnx.NodeProto:
    """The node with another weight, and another bias if there is one that it adds."""
    node = onnx.NodeProto()
    node.CopyFrom(found.place.node)
    node.input[found.seat.index] = weights[0].name
    if len(weights) > 1 and found.site.bias:
        node.input[2] = weights[1].name
    return node


def _adding(found: Found, bias: Sequence[onnx.TensorProto]) -> onnx.NodeProto | None:
    """The Add behind the node with another bias, if there is one that it adds."""
    added = found.reading.added
    if added is None or added.place is found.place or not bias:
        return None
    node = onnx.NodeProto()
    node.CopyFrom(added.place.node)
    node.input[added.index] = bias[0].name
    return node


def _prefix(found: Found, candidate: Candidate) -> str:
    return f"{found.label}/{candidate.method or (candidate.form if candidate.changes else 'refitted')}"


def _direct(
    found: Found, candidate: Candidate, weights: Sequence[onnx.TensorProto], context: Context, names: Names
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Layers of the node's own operator."""
    node, seat, stages = found.place.node, found.seat, candidate.stages
    own = [names.fresh(f"{_prefix(found, candidate)}/{i}") for i in range(len(stages) - 1)]
    stored, values = [tensor.name for tensor in weights], (node.input[seat.data], *own, node.output[0])
    emission = Emission(node, seat, stages, stored, values, found.site.dtype, context.opset, names)
    graph = gs.Graph(OPS[node.op_type].emit(emission), inputs=[], outputs=[], opset=context.opset)
    exported = gs.export_onnx(graph, do_type_check=False).graph
    for name, new in zip(own, exported.node, strict=False):
        new.name = name
    return list(exported.node), list(exported.initializer)


def _lowered(found: Found, candidate: Candidate, weights: Sequence[str], writer: Writer, ends: Ends | None) -> None:
    """2D convolutions on reshaped values or on frames."""
    node, form, size = found.place.node, FORMS[candidate.form], found.site.size
    own = weights[len(candidate.stages) :]
    bias = own[0] if own else node.input[2] if found.site.bias else ""
    weights = weights[: len(candidate.stages)]
    if form == TAPS and size is not None:
        taps.convolve(writer, node.input[0], candidate.stages[0], weights[0], bias, size, node.output[0])
        return
    if ends is None:
        plane.convolve(writer, node.input[0], candidate.stages, weights, bias, size, node.output[0])
        return
    x = ends.x
    for i, (stage, weight) in enumerate(zip(candidate.stages, weights, strict=True)):
        last = i == len(weights) - 1
        x = frames.convolve(writer, x, stage, form, weight, bias if last else "", ends.output if last else "")


def inherit(nodes: Sequence[onnx.NodeProto], node: onnx.NodeProto) -> None:
    """Gives the last of the nodes in the place of another what is said of that one, and all of them its configuration.

    Args:
        nodes: the new ones; they are changed.
        node: the old one.
    """
    last = nodes[-1]
    last.name, last.domain, last.doc_string = node.name, last.domain or node.domain, node.doc_string
    last.metadata_props.extend(node.metadata_props)
    _configure(nodes, node)


def _configure(nodes: Sequence[onnx.NodeProto], node: onnx.NodeProto) -> None:
    """Runs a chain where its node was to run; only what was said of the weight's shards goes."""
    for configuration in node.device_configurations:
        for new in nodes:
            copy = new.device_configurations.add()
            copy.CopyFrom(configuration)
            del copy.sharding_spec[:]
            own = (*new.input, *new.output)
            copy.sharding_spec.extend(s for s in configuration.sharding_spec if s.tensor_name in own)
