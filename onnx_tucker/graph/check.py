"""Whether a model is valid by onnx's own checker."""

from __future__ import annotations

from pathlib import Path

import onnx

from onnx_tucker.graph import external
from onnx_tucker.graph.nodes import places, tensors
from onnx_tucker.graph.skeleton import skeleton

WHOLE = 2**28
"""Bytes of weights up to which the checker gets a model whole; it holds two more copies."""
LIMIT = 2**31 - 2**20
"""Bytes that fit into one protobuf message, with a margin for the graph around the weights."""

FAILURES = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, TypeError, ValueError)
"""What onnx's checker, shape inference and evaluator raise for a model that they do not accept."""


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all tensors, in the model and beside it, as far as their shape tells."""
    total = 0
    for tensor in tensors(model):
        try:
            total += external.byte_size(tensor)
        except (ValueError, KeyError):  # strings
            continue
    return total


def fatal(model: onnx.ModelProto) -> str | None:
    """What would end the process if onnxruntime saw it, in a line; None where nothing is known to."""
    for place in places(model):
        for attribute in place.node.attribute:
            if attribute.name == "group" and attribute.i < 1 and not attribute.ref_attr_name:
                return f"the node {place.label!r} has {attribute.i} groups."
    return None


def broken(model: onnx.ModelProto, folder: Path) -> str | None:
    """The same as `invalid`, but outputs need not say of which shape they are, as for onnxruntime."""
    bare = skeleton(model, folder)
    shaped = [value for value in bare.graph.output if value.type.tensor_type.HasField("shape")]
    if len(shaped) == len(bare.graph.output):
        return invalid(model, folder)
    del bare.graph.output[:]
    bare.graph.output.extend(shaped)
    return invalid(bare, folder)


def invalid(model: onnx.ModelProto, folder: Path) -> str | None:
    """Why a model does not pass onnx's full check, in a line; None if it does.

    A large model is checked without its weights, and so is one with external data, as the checker needs a file for it.
    """
    whole = weight_bytes(model) <= WHOLE and not any(external.is_external(tensor) for tensor in tensors(model))
    try:
        onnx.checker.check_model(model if whole else skeleton(model, folder), full_check=True)
    except FAILURES as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None
