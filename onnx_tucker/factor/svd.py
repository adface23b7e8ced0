"""Truncated SVD of a matrix (a Gemm or a pointwise convolution): W ~ (U) (S V^T), two layers of r channels between.

Optimal in the Frobenius norm (Eckart and Young 1936). It is Tucker-1 on the output side, of which the rank is at most
the smaller side of the matrix. The first layer takes the window, so a strided pointwise convolution computes its small
side on the positions that are kept.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_tucker.factor.tucker1 import TUCKER1_OUT

SVD = replace(TUCKER1_OUT, name="svd", modes=("matrix",), on_kernel=False, asked="")
