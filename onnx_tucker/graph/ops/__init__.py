"""Operators: a new one is one file, one entry in `OPS`, and one test file."""

from __future__ import annotations

from onnx_tucker.graph.ops.conv import CONV, FUSED_CONV
from onnx_tucker.graph.ops.conv_transpose import CONV_TRANSPOSE
from onnx_tucker.graph.ops.gemm import FUSED_GEMM, GEMM
from onnx_tucker.graph.ops.matmul import FUSED_MATMUL, MATMUL
from onnx_tucker.graph.ops.op import Op

OPS: dict[str, Op] = {
    "Conv": CONV,
    "ConvTranspose": CONV_TRANSPOSE,
    "Gemm": GEMM,
    "MatMul": MATMUL,
    "FusedConv": FUSED_CONV,
    "FusedGemm": FUSED_GEMM,
    "FusedMatMul": FUSED_MATMUL,
}
