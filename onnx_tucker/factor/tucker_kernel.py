"""Tucker over the input channels and the kernel: an input basis, a few kernels for each of its channels, a mixture.

    W[o, i, k] ~ sum_ac G[o, a, c] V[i, a] Q[k, c]

as three layers: 1x1 (in -> a), c kernels for each of the a channels by themselves (a groups), 1x1 (a * c -> out). It is
the Tucker decomposition with the kernel elements as one mode (Kolda and Bader 2009, section 4).
"""

from __future__ import annotations

import numpy as np

from onnx_tucker.factor.hooi import bases
from onnx_tucker.factor.method import Method
from onnx_tucker.factor.unfold import IN
from onnx_tucker.types import Array, Ranks, Stage

KERNEL = 2


def stages(stage: Stage, ranks: Ranks) -> tuple[Stage, ...]:
    """(in -> a), (1 -> c for each of them, with the window), (a * c -> out)."""
    a, c = ranks
    return (
        stage.pointwise(a, stage.inp),
        Stage(c, 1, stage.window, stage.groups * a),
        stage.pointwise(stage.out, a * c),
    )


def factors(weight: Array, ranks: Ranks) -> tuple[Array, ...]:
    """Bases and core that minimise the Frobenius error, up to the iteration's local optimum."""
    a, c = ranks
    out, inp, *kernel = weight.shape
    tensor = weight.reshape(out, inp, -1)
    v, q = bases(tensor, (IN, KERNEL), ranks)
    ones = (1,) * len(kernel)
    kernels = np.broadcast_to(q.T, (a, *q.T.shape)).reshape(a * c, 1, *kernel)
    return (
        np.ascontiguousarray(v.T).reshape(a, inp, *ones),
        np.ascontiguousarray(kernels),
        _core(tensor, v, q).reshape(out, a * c, *ones),
    )


def _core(tensor: Array, v: Array, q: Array) -> Array:
    return np.asarray(np.einsum("oik,ia,kc->oac", tensor, v, q, optimize=True))


TUCKER_KERNEL = Method(
    name="tucker_kernel",
    modes=("in", "kernel"),
    on_matrix=False,
    on_kernel=True,
    stages=stages,
    factors=factors,
    terms=("ai", "ack", "oac"),
    letters="ac",
    asked="always",
)
