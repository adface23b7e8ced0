"""Operators: a new one is one file, one entry in `OPS`, and one test file."""

from __future__ import annotations

from onnx_tucker.graph.ops.conv import CONV
from onnx_tucker.graph.ops.gemm import GEMM
from onnx_tucker.graph.ops.op import Op

OPS: dict[str, Op] = {"Conv": CONV, "Gemm": GEMM}
