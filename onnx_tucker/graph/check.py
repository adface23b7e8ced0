"""Whether a model is valid by onnx's own checker, what it weighs, and what onnxruntime would not survive."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import onnx

from onnx_tucker.graph import external
from onnx_tucker.graph.nodes import STANDARD, UNKNOWN, bodies, places, tensors
from onnx_tucker.graph.skeleton import skeleton

WHOLE = 2**28
"""Bytes of weights up to which the checker gets a model whole; it holds two more copies."""
LIMIT = 2**31 - 2**20
"""Bytes that fit into one protobuf message, with a margin for the graph around the weights."""

SHAPELESS = "Field 'shape' of 'type'"
"""How the checker begins to say that a value has no shape."""

GROUPED = ("Conv", "ConvInteger", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv", "QLinearConv")
"""The operators that divide by their number of groups; others may call something else a group."""

FAILURES = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, TypeError, ValueError)
"""What onnx's checker, shape inference and evaluator raise for a model that they do not accept."""


def weight_bytes(model: onnx.ModelProto, *, inside: bool = False) -> int:
    """Bytes of all tensors, in the model and beside it or only `inside`, as far as their shape tells."""
    total = 0
    for tensor in tensors(model):
        if inside and external.is_external(tensor):
            continue
        try:
            total += external.byte_size(tensor)
        except (ValueError, KeyError):  # strings
            continue
    return total


def fatal(model: onnx.ModelProto) -> str | None:
    """What would end the process if onnxruntime saw it, in a sentence; None where nothing is known to."""
    for place in places(model):
        if place.node.op_type not in GROUPED:
            continue
        for attribute in place.node.attribute:
            if attribute.name == "group" and attribute.i < 1 and not attribute.ref_attr_name:
                return f"The model is not valid: the node {place.label!r} has {attribute.i} groups."
    return None


def merges(model: onnx.ModelProto) -> bool:
    """Whether onnxruntime may merge a Transpose into the MatMul behind it.

    In half precision it does not survive that where the Transpose moves the batch (seen up to 1.32).
    """
    nodes = [place.node for place in places(model)]
    casts = (a.i for node in nodes if node.op_type == "Cast" for a in node.attribute if a.name == "to")
    half = onnx.TensorProto.FLOAT16 in (*casts, *(tensor.data_type for tensor in tensors(model)))
    return not half or not {"Transpose", "MatMul"} <= {node.op_type for node in nodes}


def broken(model: onnx.ModelProto, folder: Path, known: Collection[str] = ()) -> str | None:
    """The same as `invalid`, but inputs and outputs need not say of which shape they are, as for onnxruntime.

    Args:
        model: the model.
        folder: where its external data is.
        known: operators that onnxruntime has in the standard domain.
    """
    bare = skeleton(model, folder)
    graph = bare.graph
    shapeless = [value for value in (*graph.input, *graph.output) if not value.type.tensor_type.HasField("shape")]
    nodes = (place.node for place in places(bare))
    foreign = [n for n in nodes if n.domain in STANDARD and n.op_type in known and not onnx.defs.has(n.op_type)]
    for node in foreign:
        node.domain = UNKNOWN
    if foreign:
        for imported in (bare.opset_import, *(function.opset_import for function in bare.functions)):
            imported.add(domain=UNKNOWN, version=1)
    if not shapeless:
        return invalid(bare if foreign else model, folder)
    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for value in graph.output:
        if value.name not in made:
            return f"No node computes the output {value.name!r}."
    kept = [value for value in graph.output if value not in shapeless]
    del graph.output[:]
    graph.output.extend(kept)
    fault = invalid(bare, folder)
    return _misused(bare) if fault and fault.startswith(SHAPELESS) else fault


def _misused(model: onnx.ModelProto) -> str | None:
    """What the checker says of the first standard node of the main graph that it does not accept by itself."""
    context = onnx.checker.C.CheckerContext()
    context.ir_version = model.ir_version
    context.opset_imports = {one.domain: one.version for one in model.opset_import}
    for node in model.graph.node:
        if node.domain in STANDARD and not any(bodies(attribute) for attribute in node.attribute):
            fault = _complaint(onnx.checker.check_node, node, context)
            if fault:
                return fault
    return None


def invalid(model: onnx.ModelProto, folder: Path) -> str | None:
    """Why a model does not pass onnx's full check, in a line; None if it does.

    A large model is checked without its weights, and so is one with external data, as the checker needs a file for it.
    Sizes below zero are free ones, as onnxruntime takes them.
    """
    whole = weight_bytes(model) <= WHOLE and not any(external.is_external(tensor) for tensor in tensors(model))
    bare = model if whole and not _below_zero(model) else skeleton(model, folder)
    for size in _below_zero(bare):
        size.Clear()
    return _complaint(onnx.checker.check_model, bare, full_check=True)


def _below_zero(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return [size for value in values for size in value.type.tensor_type.shape.dim if size.dim_value < 0]


def _complaint(check: Callable[..., None], *about: object, **options: object) -> str | None:
    """What the checker says of something, in a line."""
    try:
        check(*about, **options)
    except FAILURES as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None
