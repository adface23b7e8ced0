"""Evaluates the shape arithmetic of a graph: small constant nodes, and Shape of values whose shape is known.

Exporters compute pads, sizes and axes by chains of small nodes that shape inference alone does not see through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from onnx_tucker.graph import external
from onnx_tucker.graph.check import FAILURES
from onnx_tucker.graph.nodes import STANDARD, attributes, name_standard
from onnx_tucker.graph.skeleton import SMALL

ARITHMETIC = frozenset(
    "Abs Add And Cast Ceil Concat Constant ConstantOfShape Div Equal Expand Floor Gather Greater Identity Less Max Min "
    "Mod Mul Neg Not Or Pow ReduceMax ReduceMin ReduceProd ReduceSum Reshape Round Shape Size Slice Split Sqrt Squeeze "
    "Sub Transpose Unsqueeze Where".split()
)


MOVING = frozenset("Cast Concat Gather Identity Reshape Slice Split Squeeze Unsqueeze".split())
"""Operators that give some of the numbers that they take, whatever the others are; casts to whole numbers only."""
NUMBERS: Mapping[int, np.dtype[Any]] = {
    TensorProto.DOUBLE: np.dtype(np.float64),
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: np.dtype(np.float16),
    TensorProto.INT32: np.dtype(np.int32),
    TensorProto.INT64: np.dtype(np.int64),
}
"""Types that a number may be cast to."""
WHOLE = (TensorProto.INT32, TensorProto.INT64)
"""Types that tell sizes apart."""
SIZES = frozenset(("Shape", "Size"))
"""Operators that take a value for its shape, whatever it is there for."""
FREE = (11, 13)
"""Two numbers for every free size: what a node gives depends on none where it gives the same for both."""
LEAST = {"BatchNormalization": 14, "DequantizeLinear": 19}
"""The first version that the evaluator computes rightly, which is what the ones before it are where they are used."""

Size = int | str | None
"""A known size, the name of a free one, or None."""
Values = dict[str, NDArray[Any]]


def fold(model: onnx.ModelProto, known: Mapping[str, tuple[Size, ...]]) -> bool:
    """Replaces nodes of the main graph that can be evaluated by initializers, in place.

    Args:
        model: a copy for shape inference, without large weights.
        known: shapes of values, as far as they are known.

    Returns:
        Whether anything was replaced.
    """
    # Texts are no shapes, and may be none that can be decoded.
    numbers = (t for t in model.graph.initializer if t.data_type != TensorProto.STRING)
    constants: Values = {t.name: external.values(t, Path()) for t in numbers}
    open_: tuple[Values, Values] = ({}, {})  # what depends on free sizes, for both numbers for those
    kept, folded = [], False
    types = _types(model.graph)
    for node in model.graph.node:
        values = _evaluate(node, model, constants)
        if values is None and node.op_type == "CastLike" and node.domain in STANDARD:
            values = _cast(node, constants, types)
        if values is None:
            made = [_moved(node, model, constants, *pair, known) for pair in zip(open_, FREE, strict=True)]
            for some, more in zip(open_, made, strict=True):
                some |= more
            one, other = made
            if one and all(name in other and np.array_equal(value, other[name]) for name, value in one.items()):
                values = one
        if values is None:
            kept.append(node)
            continue
        constants |= values
        model.graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in values.items())
        folded = True
    if folded:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    return folded


def _evaluate(node: onnx.NodeProto, model: onnx.ModelProto, constants: Values) -> Values | None:
    """Values of the node's outputs, or None where they are not small constants."""
    if node.op_type not in ARITHMETIC or node.domain not in STANDARD:
        return None
    if any(name and name not in constants for name in node.input):
        return None
    feed = {name: constants[name] for name in node.input if name}
    if node.op_type in ("ConstantOfShape", "Expand") and math.prod(feed[node.input[-1]].ravel().tolist()) > SMALL:
        return None
    outputs = evaluate(node, feed, model)
    return None if outputs is None or any(v.size > SMALL for v in outputs.values()) else outputs


def _types(graph: onnx.GraphProto) -> dict[str, int]:
    """The types of elements of values, as far as they are said."""
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: value.type.tensor_type.elem_type for value in values if value.type.HasField("tensor_type")}


def _cast(node: onnx.NodeProto, constants: Values, types: Mapping[str, int]) -> Values | None:
    """What a CastLike gives, of which the other input need be known by its type only; None where that is not."""
    data, like = (*node.input, "", "")[:2]
    wanted = constants[like].dtype if like in constants else NUMBERS.get(types.get(like, TensorProto.UNDEFINED))
    if data not in constants or wanted is None:
        return None
    with np.errstate(all="ignore"):
        return {node.output[0]: constants[data].astype(wanted)}


def _moved(
    node: onnx.NodeProto,
    model: onnx.ModelProto,
    constants: Values,
    open_: Values,
    free: int,
    known: Mapping[str, tuple[Size, ...]],
) -> Values:
    """Values of the outputs of a node that tells sizes or moves them, for a number in place of free ones; else none.

    Args:
        node: the node.
        model: the model.
        constants: what is known.
        open_: what depends on free sizes, for that number.
        free: the number.
        known: shapes of values, as far as they are known.
    """
    if node.domain not in STANDARD:
        return {}
    if node.op_type in SIZES and node.input[0] in known:
        sizes, given = [size if isinstance(size, int) else free for size in known[node.input[0]]], attributes(node)
        some = sizes[given.get("start", 0) : given.get("end")] if node.op_type == "Shape" else math.prod(sizes)
        return {node.output[0]: np.array(some, np.int64)}
    if node.op_type == "Cast" and attributes(node).get("to") not in WHOLE:
        return {}
    taken = [name for name in node.input if name]
    data = taken if node.op_type == "Concat" else taken[:1]
    if node.op_type not in MOVING or not any(name in open_ for name in data):
        return {}
    if any(name not in constants and (name not in data or name not in open_) for name in taken):
        return {}
    return evaluate(node, {name: open_[name] if name in open_ else constants[name] for name in taken}, model) or {}


def evaluate(node: onnx.NodeProto, feed: Values, model: onnx.ModelProto) -> Values | None:
    """The outputs of one node on given inputs; None where they cannot be computed."""
    try:
        with np.errstate(all="ignore"):
            values = ReferenceEvaluator(_alone(node, model)).run(None, feed)
    except (*FAILURES, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError):
        return None
    arrays = [v for v in values if isinstance(v, np.ndarray | np.generic)]
    if len(arrays) < len(values):
        return None
    return {name: np.asarray(v) for name, v in zip(filter(None, node.output), arrays, strict=True)}


def _alone(node: onnx.NodeProto, model: onnx.ModelProto) -> onnx.ModelProto:
    graph = onnx.helper.make_graph(
        [node],
        "node",
        [onnx.ValueInfoProto(name=name) for name in dict.fromkeys(filter(None, node.input))],
        [onnx.ValueInfoProto(name=name) for name in filter(None, node.output)],
    )
    alone = onnx.helper.make_model(graph, ir_version=model.ir_version, opset_imports=list(model.opset_import))
    name_standard(alone)
    for imported in alone.opset_import:
        if not imported.domain:
            imported.version = max(imported.version, LEAST.get(node.op_type, 0))
    return alone
