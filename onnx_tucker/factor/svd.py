"""Truncated SVD of a matrix (a Gemm or a pointwise convolution): W ~ (U) (S V^T), two layers of r channels between.

Optimal in the Frobenius norm (Eckart and Young 1936). The first layer takes the window, so a strided pointwise
convolution computes its small side on the positions that are kept.
"""

from __future__ import annotations

from dataclasses import replace

from onnx_tucker.factor.method import Method
from onnx_tucker.factor.unfold import leading_basis
from onnx_tucker.types import Array, Ranks, Stage


def stages(stage: Stage, ranks: Ranks) -> tuple[Stage, ...]:
    """(in -> r with the window), (r -> out)."""
    return replace(stage, out=ranks[0]), stage.pointwise(stage.out, ranks[0])


def factors(weight: Array, ranks: Ranks) -> tuple[Array, ...]:
    """The matrix projected on its leading output basis, and that basis."""
    out, inp, *kernel = weight.shape
    matrix = weight.reshape(out, inp)
    basis = leading_basis(matrix, ranks[0])
    return (basis.T @ matrix).reshape(ranks[0], inp, *kernel), basis.reshape(out, ranks[0], *kernel)


SVD = Method(
    name="svd",
    modes=("matrix",),
    on_matrix=True,
    on_kernel=False,
    stages=stages,
    factors=factors,
    terms=("rik", "or"),
    letters="r",
)
