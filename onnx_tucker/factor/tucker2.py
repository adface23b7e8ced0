"""Tucker-2: an input basis, a small core that keeps the kernel, an output basis.

    W[o, i, k] ~ sum_ab U[o, b] G[b, a, k] V[i, a]

as three layers: 1x1 (in -> a), the kernel (a -> b), 1x1 (b -> out). Kim et al., "Compression of Deep Convolutional
Neural Networks for Fast and Low Power Mobile Applications", ICLR 2016, equations (3) to (6). On a matrix it is the
thesis's three-factor form with ranks (R_B, R_A).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_tucker.factor.hooi import bases
from onnx_tucker.factor.method import Method
from onnx_tucker.factor.unfold import IN, OUT
from onnx_tucker.types import Array, Ranks, Stage


def stages(stage: Stage, ranks: Ranks) -> tuple[Stage, ...]:
    """(in -> r_in), (r_in -> r_out with the window), (r_out -> out)."""
    r_in, r_out = ranks
    core = replace(stage, out=r_out, inp=r_in)
    return stage.pointwise(r_in, stage.inp), core, stage.pointwise(stage.out, r_out)


def factors(weight: Array, ranks: Ranks) -> tuple[Array, ...]:
    """Bases and core that minimise the Frobenius error, up to HOOI's local optimum."""
    r_in, r_out = ranks
    out, inp, *kernel = weight.shape
    tensor = weight.reshape(out, inp, -1)
    u, v = bases(tensor, (OUT, IN), (r_out, r_in))
    ones = (1,) * len(kernel)
    return (
        np.ascontiguousarray(v.T).reshape(r_in, inp, *ones),
        _core(tensor, u, v).reshape(r_out, r_in, *kernel),
        u.reshape(out, r_out, *ones),
    )


def _core(tensor: Array, u: Array, v: Array) -> Array:
    return np.asarray(np.einsum("oik,ob,ia->bak", tensor, u, v, optimize=True))


TUCKER2 = Method(
    name="tucker2",
    modes=("in", "out"),
    on_matrix=True,
    on_kernel=True,
    stages=stages,
    factors=factors,
    terms=("ai", "bak", "ob"),
    letters="ab",
    asked="matrix",
)
