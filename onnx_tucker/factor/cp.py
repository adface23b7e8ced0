"""Canonical polyadic decomposition: a sum of outer products, with the kernel as one mode.

    W[o, i, k] ~ sum_r U[o, r] K[k, r] V[i, r]

as three layers: 1x1 (in -> r), one kernel for each of the r channels by itself, 1x1 (r -> out). Lebedev et al.,
"Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", ICLR 2015, with the kernel elements as
one mode. Found by alternating least squares; at the full rank the weight itself is written as a sum.
"""

from __future__ import annotations

import numpy as np

from onnx_tucker.factor.method import Method
from onnx_tucker.types import Array, Ranks, Stage

ROUNDS, TOLERANCE = 200, 1e-7


def stages(stage: Stage, ranks: Ranks) -> tuple[Stage, ...]:
    """(in -> r), (1 -> 1 for each of them, with the window), (r -> out)."""
    (r,) = ranks
    middle = Stage(1, 1, stage.window, stage.groups * r)
    return stage.pointwise(r, stage.inp), middle, stage.pointwise(stage.out, r)


def factors(weight: Array, ranks: Ranks) -> tuple[Array, ...]:
    """The outer products, the sizes of each spread evenly over its three factors."""
    from tensorly.decomposition import parafac  # slow to import

    (r,) = ranks
    out, inp, *kernel = weight.shape
    tensor = weight.reshape(out, inp, -1)
    whole = _whole(tensor)
    if r == whole[0].shape[1] or not tensor.any():
        u, v, k = (factor[:, :r] for factor in whole)
    else:
        sizes, (u, v, k) = parafac(
            tensor, r, n_iter_max=ROUNDS, tol=TOLERANCE, init="random", random_state=0, normalize_factors=True
        )
        u, v, k = (factor * np.cbrt(sizes) for factor in (u, v, k))
    ones = (1,) * len(kernel)
    return (
        np.ascontiguousarray(v.T).reshape(r, inp, *ones),
        np.ascontiguousarray(k.T).reshape(r, 1, *kernel),
        np.ascontiguousarray(u).reshape(out, r, *ones),
    )


def _whole(tensor: Array) -> tuple[Array, Array, Array]:
    """The tensor as a sum of one product for every pair of indices of its two shortest modes."""
    long = int(np.argmax(tensor.shape))
    first, second = (mode for mode in range(3) if mode != long)
    a, b = tensor.shape[first], tensor.shape[second]
    found: dict[int, Array] = {
        first: np.repeat(np.eye(a), b, axis=1),
        second: np.tile(np.eye(b), a),
        long: np.moveaxis(tensor, long, 0).reshape(tensor.shape[long], -1),
    }
    return found[0], found[1], found[2]


CP = Method(
    name="cp",
    modes=("components",),
    on_matrix=False,
    on_kernel=True,
    stages=stages,
    factors=factors,
    terms=("ri", "rk", "or"),
    letters="r",
    asked="always",
)
