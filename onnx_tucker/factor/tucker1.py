"""Tucker-1: one basis only, on the input or the output side.

    in side    W[o, i, k] ~ sum_a G[o, a, k] V[i, a]      1x1 (in -> a), then the kernel (a -> out)
    out side   W[o, i, k] ~ sum_b U[o, b] G[b, i, k]      the kernel (in -> b), then 1x1 (b -> out)

Both are truncated singular value decompositions of an unfolding, hence optimal (Eckart and Young 1936).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_tucker.factor.method import Method
from onnx_tucker.factor.unfold import IN, OUT, leading_basis, unfold
from onnx_tucker.types import Array, Ranks, Stage


def stages_in(stage: Stage, ranks: Ranks) -> tuple[Stage, ...]:
    """(in -> r), (r -> out with the window)."""
    return stage.pointwise(ranks[0], stage.inp), replace(stage, inp=ranks[0])


def factors_in(weight: Array, ranks: Ranks) -> tuple[Array, ...]:
    """The leading basis of the input channels, and the weight projected on it."""
    basis = leading_basis(unfold(weight, IN), ranks[0])
    projected = np.moveaxis(np.tensordot(weight, basis, (IN, 0)), -1, IN)
    return np.ascontiguousarray(basis.T).reshape(*basis.T.shape, *_ones(weight)), np.ascontiguousarray(projected)


def stages_out(stage: Stage, ranks: Ranks) -> tuple[Stage, ...]:
    """(in -> r with the window), (r -> out)."""
    return replace(stage, out=ranks[0]), stage.pointwise(stage.out, ranks[0])


def factors_out(weight: Array, ranks: Ranks) -> tuple[Array, ...]:
    """The weight projected on the leading basis of the output channels, and that basis."""
    basis = leading_basis(unfold(weight, OUT), ranks[0])
    return np.tensordot(basis.T, weight, (1, OUT)), basis.reshape(*basis.shape, *_ones(weight))


def _ones(weight: Array) -> tuple[int, ...]:
    return (1,) * (weight.ndim - 2)


TUCKER1_IN = Method(
    name="tucker1_in",
    modes=("in",),
    on_matrix=True,
    on_kernel=True,
    stages=stages_in,
    factors=factors_in,
    terms=("ai", "oak"),
    letters="a",
    asked="matrix",
)
TUCKER1_OUT = Method(
    name="tucker1_out",
    modes=("out",),
    on_matrix=True,
    on_kernel=True,
    stages=stages_out,
    factors=factors_out,
    terms=("bik", "ob"),
    letters="b",
    asked="matrix",
)
