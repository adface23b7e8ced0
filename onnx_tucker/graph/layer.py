"""One-layer models: a node of the model, or a chain in its place, alone with its input.

For timing, weights and input are seeded noise, so that equal layers give equal bytes and can share their times. For
errors, weights and bias are the real ones and the input is what the model computes for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.graph.splice import Piece, build
from onnx_tucker.types import Array, Candidate, Chain, Stage

INPUT, OUTPUT = "x", "y"


def noise_original(model: onnx.ModelProto, found: Found, context: Context) -> bytes:
    """The node with noise for weights."""
    node, seat, site = found.place.node, found.seat, found.site
    weight = _noise(site.stage, seat.weight.shape).astype(site.dtype)
    piece = Piece([node], [numpy_helper.from_array(weight, node.input[seat.index])])
    return _alone(model, found, context, piece, own_bias=False)


def noise_chain(model: onnx.ModelProto, found: Found, context: Context, candidate: Candidate) -> bytes:
    """The chain that a candidate would become, with noise for weights."""
    chain = Chain(candidate.stages, tuple(_noise(stage, stage.shape) for stage in candidate.stages))
    names = Names(onnx.ModelProto())
    for name in (*found.place.node.input, *found.place.node.output):
        names.fresh(name)
    piece = build(found, candidate.method, chain, context, names)
    return _alone(model, found, context, piece, own_bias=False)


def noise_input(found: Found, context: Context) -> dict[str, Array]:
    """Noise of the shape of the node's activations, which has to be known."""
    shape = context.shapes[activations(found)]
    return {INPUT: np.random.default_rng(0).standard_normal(shape).astype(found.site.dtype)}


def activations(found: Found) -> str:
    """Name of the value that the node multiplies its weight by."""
    return str(found.place.node.input[found.seat.data])


def real_original(model: onnx.ModelProto, found: Found, context: Context) -> bytes:
    """The node as it is."""
    node, seat = found.place.node, found.seat
    piece = Piece([node], [numpy_helper.from_array(seat.weight.read(), node.input[seat.index])])
    return _alone(model, found, context, piece, own_bias=True)


def real_chain(model: onnx.ModelProto, found: Found, context: Context, piece: Piece) -> bytes:
    """The node's chain as it goes into the model."""
    return _alone(model, found, context, piece, own_bias=True)


def stands_alone(found: Found, context: Context) -> bool:
    """Whether all that the node takes besides its activations is constant."""
    inputs = range(2, len(found.place.node.input))
    return all(not found.place.node.input[i] or context.constant(found.place, i) for i in inputs)


def probe(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """The model with the values `names` as its only outputs."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return probed.SerializeToString(deterministic=True)


def _noise(stage: Stage, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A weight of a stage, in the order of `shape`, that keeps the size of the activations."""
    scale = np.float32(1 / np.sqrt(stage.inp * stage.window.volume))
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    noise *= scale
    return noise


def _alone(model: onnx.ModelProto, found: Found, context: Context, piece: Piece, *, own_bias: bool) -> bytes:
    """A model of one piece, under names that do not depend on the model it comes from."""
    place, seat = found.place, found.seat
    elem_type = helper.np_dtype_to_tensor_dtype(found.site.dtype)
    tensors = [*piece.weights, *piece.zeros]
    for i, name in enumerate(place.node.input):
        if name in ("", activations(found)) or i == seat.index:
            continue
        known = context.constant(place, i)
        if known is not None and own_bias:
            tensors.append(numpy_helper.from_array(known.read(), name))
        else:
            shape = known.shape if known else context.shapes.get(name, (found.site.stage.shape[0],))
            tensors.append(numpy_helper.from_array(np.zeros(shape, found.site.dtype), name))
    graph = helper.make_graph(
        piece.nodes,
        "layer",
        [helper.make_tensor_value_info(INPUT, elem_type, None)],
        [helper.make_tensor_value_info(OUTPUT, elem_type, None)],
        list({tensor.name: tensor for tensor in tensors}.values()),
    )
    renamed = {activations(found): INPUT, place.node.output[0]: OUTPUT}
    for i, tensor in enumerate(graph.initializer):
        renamed[tensor.name] = tensor.name = f"w{i}"
    for i, part in enumerate(graph.node):
        part.name, part.doc_string = "", ""
        part.ClearField("metadata_props")
        for values in (part.input, part.output):
            for j, name in enumerate(values):
                values[j] = renamed.setdefault(name, f"t{i}.{j}") if name else ""
    made = helper.make_model(graph, ir_version=max(model.ir_version, 4), opset_imports=list(model.opset_import))
    return made.SerializeToString(deterministic=True)
