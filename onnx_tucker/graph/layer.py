"""One-layer models: a node of the model, or a chain in its place, alone with its input.

For timing, weights and input are seeded noise, so that equal layers give equal bytes and can share their times. For
errors, weights and bias are the real ones and the input is what the model computes for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.forms import FORMS
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.lower.frames import Frames, enter, leave
from onnx_tucker.graph.lower.layout import frames_of
from onnx_tucker.graph.lower.writer import Writer
from onnx_tucker.graph.nodes import Names, opset_of
from onnx_tucker.graph.piece import Ends, Piece, build, store
from onnx_tucker.types import Array, Candidate, Chain, Stage

INPUT, OUTPUT, FRAMES = "x", "y", "frames"
"""Names of a layer's input and output, and of its input where it takes frames."""


class Borders(NamedTuple):
    """Whether a layer on frames takes and gives the value itself, and converts it, or frames."""

    enter: bool = True
    leave: bool = True


WHOLE, FRAMES_ONLY = Borders(), Borders(enter=False, leave=False)


def noise_original(model: onnx.ModelProto, found: Found, context: Context) -> bytes:
    """The node with noise for weights."""
    node, seat, site = found.place.node, found.seat, found.site
    weight = _noise(site.stage, seat.weight.shape).astype(site.dtype)
    piece = Piece([node], [numpy_helper.from_array(weight, node.input[seat.index])])
    return _alone(model, found, context, piece, own_bias=False)


def noise_chain(
    model: onnx.ModelProto, found: Found, context: Context, candidate: Candidate, borders: Borders = WHOLE
) -> bytes:
    """The chain that a candidate would become, with noise for weights."""
    names = _names_of(found)
    weights = noise_weights(found, candidate, names)
    piece = piece_of(found, candidate, weights, context, names, borders)
    source = FRAMES if FORMS[candidate.form].on_frames and not borders.enter else INPUT
    return _alone(model, found, context, piece, own_bias=False, source=source)


def noise_weights(found: Found, candidate: Candidate, names: Names) -> list[onnx.TensorProto]:
    """Noise for the weights of the chain that a candidate would become."""
    chain = Chain(candidate.stages, tuple(_noise(stage, stage.shape) for stage in candidate.stages))
    return store(found, candidate, chain, names)


def noise_conversions(model: onnx.ModelProto, frames: Frames) -> tuple[bytes, bytes]:
    """A value turned into frames, and back."""
    results = []
    for back in (False, True):
        writer = Writer(Names(onnx.ModelProto()), "convert", opset_of(model))
        if back:
            leave(writer, replace(frames, name=FRAMES), OUTPUT)
        else:
            enter(writer, INPUT, replace(frames, name=OUTPUT))
        source = FRAMES if back else INPUT
        renamed = {source: source, OUTPUT: OUTPUT}
        results.append(_model(model, writer.nodes, writer.constants, renamed, TensorProto.FLOAT))
    return results[0], results[1]


def noise_input(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Noise of the shape of a value, and the same as frames where it has some."""
    value = np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype, copy=False)
    if len(shape) != 5:
        return {INPUT: value}
    frames = np.ascontiguousarray(value.swapaxes(1, 2)).reshape(-1, shape[1], *shape[3:])
    return {INPUT: value, FRAMES: frames}


def largest(found: Found, context: Context) -> int:
    """Elements of the largest value that a layer of noise is made with."""
    place = found.place
    names = [name for i, name in enumerate(place.node.input) if i != found.seat.index]
    held = [context.constant(place, i) for i in range(len(place.node.input)) if i != found.seat.index]
    shapes = [known.shape if known else context.shapes.get(name, ()) for known, name in zip(held, names, strict=True)]
    return max(map(math.prod, shapes), default=0)


def real_chain(
    model: onnx.ModelProto, found: Found, context: Context, candidate: Candidate, weights: list[onnx.TensorProto]
) -> bytes:
    """The node's chain with the weights that go into the model, between values as the node has them."""
    names, added = _names_of(found), found.reading.added
    names.take(weight.name for weight in weights)
    piece = piece_of(found, candidate, weights, context, names, WHOLE)
    if added and added.place is not found.place:
        node = added.place.node
        own = numpy_helper.from_array(added.constant.read(), node.input[added.index])
        piece = Piece([*piece.nodes, piece.adding or node], piece.weights, [*piece.constants, own])
    return _alone(model, found, context, piece, own_bias=True)


def stands_alone(found: Found, context: Context) -> bool:
    """Whether all that the node takes besides its activations is constant."""
    inputs = range(2, len(found.place.node.input))
    return all(not found.place.node.input[i] or context.constant(found.place, i) for i in inputs)


def _noise(stage: Stage, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A weight of a stage, in the order of `shape`, that keeps the size of the activations."""
    scale = np.float32(1 / np.sqrt(stage.inp * stage.window.volume))
    noise = np.random.default_rng(0).standard_normal(shape, np.float32)
    noise *= scale
    return noise


def _names_of(found: Found) -> Names:
    names = Names(onnx.ModelProto())
    names.take((*found.place.node.input, *found.place.node.output))
    return names


def piece_of(
    found: Found,
    candidate: Candidate,
    weights: list[onnx.TensorProto],
    context: Context,
    names: Names,
    borders: Borders,
) -> Piece:
    """The piece of a candidate, with the conversions at its borders where it is on frames."""
    if not FORMS[candidate.form].on_frames:
        return build(found, candidate, weights, context, names)
    node = found.place.node
    x, y = frames_of(context, node.input[0]), frames_of(context, node.output[0])
    assert x is not None
    assert y is not None
    before, after = (Writer(names, border, context.opset) for border in ("enter", "leave"))
    x = replace(x, name=names.fresh("frames") if borders.enter else node.input[0])
    if borders.enter:
        enter(before, node.input[0], x)
    output = names.fresh("result") if borders.leave else node.output[0]
    piece = build(found, candidate, weights, context, names, Ends(x, output))
    if borders.leave:
        leave(after, replace(y, name=output), node.output[0])
    nodes = [*before.nodes, *piece.nodes, *after.nodes]
    return Piece(nodes, piece.weights, [*before.constants, *piece.constants, *after.constants])


def _alone(
    model: onnx.ModelProto, found: Found, context: Context, piece: Piece, *, own_bias: bool, source: str = INPUT
) -> bytes:
    """A model of one piece, which takes an input by the name of `source`."""
    place, seat = found.place, found.seat
    elem_type = helper.np_dtype_to_tensor_dtype(found.site.dtype)
    tensors = [*piece.weights, *piece.constants]
    for i, name in enumerate(place.node.input):
        if name in ("", found.input) or i == seat.index:
            continue
        known = context.constant(place, i)
        if known is not None and own_bias:
            tensors.append(numpy_helper.from_array(known.read(), name))
        else:
            shape = known.shape if known else context.shapes.get(name, (found.site.stage.shape[0],))
            tensors.append(numpy_helper.from_array(np.zeros(shape, found.site.dtype), name))
    renamed = {found.input: source, found.output if own_bias else place.node.output[0]: OUTPUT}
    return _model(model, piece.nodes, tensors, renamed, elem_type)


def _model(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[onnx.TensorProto],
    renamed: dict[str, str],
    elem_type: int,
) -> bytes:
    """A model of nodes, under names that do not depend on the model they come from.

    Args:
        model: that model.
        nodes: copied.
        tensors: the initializers.
        renamed: the value that goes in and the one that comes out, with their new names.
        elem_type: of both.
    """
    source, target = renamed.values()
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info(source, elem_type, None)],
        [helper.make_tensor_value_info(target, elem_type, None)],
        list({tensor.name: tensor for tensor in tensors}.values()),
    )
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
