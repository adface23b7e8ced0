"""Writes new nodes one after the other, each with one output, in a form that every opset from 7 on knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper, numpy_helper

from onnx_tucker.graph.nodes import Names
from onnx_tucker.types import Array

PAD_INPUTS = 11
"""The first opset in which Pad takes how much as an input."""
SLICE_INPUTS = 10
"""The first opset in which Slice takes its bounds as inputs."""
REDUCE_INPUTS = 18
"""The first opset in which ReduceMax takes its axes as an input."""
SQUEEZE_INPUTS = 13
"""The first opset in which Squeeze and Unsqueeze take their axes as an input."""


class Writer:
    """Collects nodes and the constants that they need.

    Attributes:
        nodes: those written.
        constants: initializers that they refer to.
    """

    def __init__(self, names: Names, prefix: str, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names, self._prefix, self._opset = names, prefix, opset
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Writes a node and returns its output, which gets a fresh name unless one is given."""
        name = self._names.fresh(f"{self._prefix}/{len(self.nodes)}")
        result = output or name
        self.nodes.append(helper.make_node(op, list(inputs), [result], name, **attributes))
        return result

    def constant(self, array: ArrayLike) -> str:
        """An initializer of these values, a new one unless they are there already."""
        values = np.ascontiguousarray(array)
        known = str(values.dtype), values.shape, values.tobytes()
        if known not in self._known:
            self._known[known] = self._names.fresh(f"{self._prefix}/constant{len(self.constants)}")
            self.constants.append(numpy_helper.from_array(values, self._known[known]))
        return self._known[known]

    def reshape(self, value: str, *shape: int, output: str = "") -> str:
        """The value in another shape, as the operator takes it: 0 keeps a size, -1 is what is left."""
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64)), output=output)

    def squeeze(self, value: str, axis: int, *, back: bool = False, output: str = "") -> str:
        """The value without an axis of size 1, or with one more; unlike by `reshape` also where it is empty."""
        op = "Unsqueeze" if back else "Squeeze"
        if self._opset < SQUEEZE_INPUTS:
            return self.add(op, value, output=output, axes=[axis])
        return self.add(op, value, self.constant(np.array([axis], np.int64)), output=output)

    def product(self, left: Array, value: str) -> str:
        """The product of a constant matrix and (..., columns, anything)."""
        return self.add("MatMul", self.constant(left.astype(np.float32)), value)

    def largest(self, value: str, axis: int) -> str:
        """The largest entries along an axis, which goes."""
        if self._opset < REDUCE_INPUTS:
            return self.add("ReduceMax", value, axes=[axis], keepdims=0)
        return self.add("ReduceMax", value, self.constant(np.array([axis], np.int64)), keepdims=0)

    def pad(self, value: str, axis: int, before: int, after: int) -> str:
        """A value of four axes with zeros at both ends of one, or where a number is below 0, with fewer entries."""
        pads = [0] * 8
        pads[axis], pads[axis + 4] = before, after
        if not any(pads):
            return value
        if self._opset < PAD_INPUTS:
            return self.add("Pad", value, pads=pads)
        return self.add("Pad", value, self.constant(np.array(pads, np.int64)))

    def slice(self, value: str, axis: int, start: int, end: int, output: str = "") -> str:
        """The entries from `start` to `end` along an axis."""
        if self._opset < SLICE_INPUTS:
            return self.add("Slice", value, output=output, axes=[axis], starts=[start], ends=[end])
        bounds = [self.constant(np.array([i], np.int64)) for i in (start, end, axis)]
        return self.add("Slice", value, *bounds, output=output)
