"""A model without its weights: the same graph, valid, with the same shapes, and small."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import helper, numpy_helper

from onnx_tucker.graph import external
from onnx_tucker.graph.nodes import STANDARD, name_standard, tensors

SMALL = 1024
"""Constants of up to this many elements may be shapes, axes or pads; larger ones are weights."""


def skeleton(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """A copy in which large initializers and constants are inputs of their shape and type, and nothing is external.

    The standard domain has its empty name. Large external tensors within bodies, functions and attributes, which are
    rare, become zeros.

    Args:
        model: any model; it is not changed.
        folder: where its file is.
    """
    bare = onnx.ModelProto(ir_version=model.ir_version)
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    bare.metadata_props.extend(model.metadata_props)  # the checker looks at that too
    bare.graph.name = model.graph.name
    for field in ("input", "output", "value_info", "sparse_initializer"):
        getattr(bare.graph, field).extend(getattr(model.graph, field))
    inputs = {value.name for value in model.graph.input}
    for node in model.graph.node:
        held = _held(node)
        if held is None:
            bare.graph.node.add().CopyFrom(node)
        else:
            bare.graph.input.append(_input(node.output[0], held))
    name_standard(bare)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            bare.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(_input(tensor.name, tensor))
    for tensor in tensors(bare):
        if external.is_external(tensor):
            small = math.prod(tensor.dims) <= SMALL
            array = external.values(tensor, folder) if small else external.nothing_like(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return bare


def _held(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The large tensor that a node is there for."""
    if node.op_type != "Constant" or node.domain not in STANDARD or len(node.output) != 1:
        return None
    return next((a.t for a in node.attribute if a.name == "value" and math.prod(a.t.dims) > SMALL), None)


def _input(name: str, tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
