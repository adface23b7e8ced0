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
from onnx_tucker.graph.ops import OPS
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.graph.splice import Piece, build
from onnx_tucker.types import Array, Candidate, Chain, Stage

INPUT, OUTPUT = "x", "y"


def noise_original(model: onnx.ModelProto, found: Found, context: Context) -> bytes:
    """The node with noise for weights."""
    node, site = found.place.node, found.site
    weight = OPS[node.op_type].stored(node, _noise(site.stage).astype(site.weight.dtype))
    piece = Piece([node], [numpy_helper.from_array(np.ascontiguousarray(weight), node.input[1])])
    return _alone(model, found, context, piece, own_bias=False)


def noise_chain(model: onnx.ModelProto, found: Found, context: Context, candidate: Candidate) -> bytes:
    """The chain that a candidate would become, with noise for weights."""
    chain = Chain(candidate.stages, tuple(_noise(stage) for stage in candidate.stages))
    piece = build(found, candidate.method, chain, context, Names(onnx.ModelProto()))
    return _alone(model, found, context, piece, own_bias=False)


def noise_input(found: Found, context: Context) -> dict[str, Array]:
    """Noise of the shape of the node's input."""
    shape = context.shapes[found.place.node.input[0]]
    return {INPUT: np.random.default_rng(0).standard_normal(shape).astype(found.site.weight.dtype)}


def real_original(model: onnx.ModelProto, found: Found, context: Context) -> bytes:
    """The node as it is."""
    node = found.place.node
    piece = Piece([node], [context.initializers[node.input[1]]])
    return _alone(model, found, context, piece, own_bias=True)


def real_chain(model: onnx.ModelProto, found: Found, context: Context, piece: Piece) -> bytes:
    """The node's chain as it goes into the model."""
    return _alone(model, found, context, piece, own_bias=True)


def probe(model: onnx.ModelProto, names: Iterable[str]) -> bytes:
    """The model with the values `names` as its only outputs."""
    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:]
    probed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return probed.SerializeToString(deterministic=True)


def _noise(stage: Stage) -> NDArray[np.float64]:
    scale = np.sqrt(stage.inp * stage.window.volume)
    return np.asarray(np.random.default_rng(0).standard_normal(stage.shape) / scale)


def _alone(model: onnx.ModelProto, found: Found, context: Context, piece: Piece, *, own_bias: bool) -> bytes:
    """A model of one piece, under names that do not depend on the model it comes from."""
    node, site = found.place.node, found.site
    elem_type = helper.np_dtype_to_tensor_dtype(site.weight.dtype)
    tensors = [*piece.weights]
    for name in (n for n in node.input[2:] if n not in ("", node.input[0])):
        known = context.initializers.get(name)
        if known is None or not own_bias:
            shape = tuple(known.dims) if known is not None else context.shapes.get(name, (site.stage.out,))
            known = numpy_helper.from_array(np.zeros(shape, site.weight.dtype), name)
        tensors.append(known)
    graph = helper.make_graph(
        piece.nodes,
        "layer",
        [helper.make_tensor_value_info(INPUT, elem_type, None)],
        [helper.make_tensor_value_info(OUTPUT, elem_type, None)],
        tensors,
    )
    renamed = {node.input[0]: INPUT, node.output[0]: OUTPUT}
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
