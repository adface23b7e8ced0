"""Through what moves values about, or puts new ones on the lines between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tucker.adjoints.call import Call, Value, single
from onnx_tucker.graph.behind import SHAPERS

EXACT = 2**24
"""Whole numbers up to this are exact in single precision."""


def moved(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through what only moves values about: it is run on their numbers, of which 0 stands for all others."""
    x = call.given(index)
    if call.op in SHAPERS:
        return single(changes).reshape(x.shape).astype(np.float32, copy=False)
    if call.attributes.get("value"):
        raise ValueError("numbers between the others")

    def numbered(kind: type[np.int64] | type[np.float32]) -> list[Value]:
        ours = np.arange(1, x.size + 1, dtype=kind).reshape(x.shape)
        others = [o if o is None or o.dtype != x.dtype or not o.size else np.zeros_like(o, kind) for o in call.inputs]
        return call.run([*others[:index], ours, *others[index + 1 :]])

    try:
        sources = numbered(np.int64)
    except Exception as error:  # types that an operator does not take are told by any of onnxruntime's
        if x.size >= EXACT:
            raise ValueError("too many values to be numbered") from error
        sources = numbered(np.float32)
    found = np.zeros(x.size + 1)
    for source, change in zip(sources, changes, strict=False):
        if change is not None:
            found += np.bincount(source.ravel().astype(np.int64), change.ravel(), x.size + 1)
    return found[1:].reshape(x.shape).astype(np.float32)


def resized(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a change of sizes, linear in each axis: by the transpose of what it makes of each value alone."""
    x, found, given = call.given(index), single(changes), call.attributes
    if not x.size:
        return np.zeros_like(x)
    if given.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise ValueError("a part of it alone")
    if given.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise ValueError("sizes that depend on one another")
    at = 1 if call.op == "Upsample" or call.opset < 11 else 2
    axes = [int(axis) % x.ndim for axis in given.get("axes") or range(x.ndim)]
    told = [(i, one) for i, one in enumerate(call.inputs) if i >= at and one is not None and one.size]
    if not told:
        raise ValueError("scales that cannot be changed")
    at, stretched = told[0]
    by_size = stretched.dtype.kind == "i"
    for place, axis in enumerate(axes):
        size, result = x.shape[axis], found.shape[axis]
        if stretched[place] == (size if by_size else 1):
            continue
        if size == result:  # a run of this axis alone would leave it as it is
            raise ValueError("values that are moved by less than a place")
        shape = [1] * x.ndim  # a batch of inputs, each with one value that is not zero
        shape[axis] = shape[0 if axis else 1] = size
        alone = np.array([shape[a] if by_size else 1 for a in axes], stretched.dtype)
        alone[place] = stretched[place]
        inputs = [np.eye(size, dtype=np.float32).reshape(shape), *call.inputs[1:at], alone]
        lines = np.moveaxis(call.run(inputs)[0], axis, -1).reshape(size, result)
        found = np.moveaxis(np.tensordot(found, lines, (axis, 1)), -1, axis)
    return np.ascontiguousarray(found)
