"""Higher-order orthogonal iteration: the bases of a Tucker decomposition, by turns the best for the others.

De Lathauwer, De Moor and Vandewalle, "On the Best Rank-1 and Rank-(R1, R2, ..., RN) Approximation of Higher-Order
Tensors", SIAM Journal on Matrix Analysis and Applications 21, 2000, algorithm 4.2. Each basis comes from the Gram
matrix of an unfolding; tensorly takes the whole singular value decomposition of it, which takes five times as long for
512 channels, kernels of 3x3x3 and ranks of 152 and 200.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_tucker.factor.unfold import leading_basis, unfold
from onnx_tucker.types import Array

ROUNDS, TOLERANCE = 100, 1e-4
"""How often all bases are replaced at most, and the fall of the relative error below which they are no longer."""


def bases(tensor: Array, modes: Sequence[int], ranks: Sequence[int]) -> list[Array]:
    """Orthonormal bases (size, rank) along some modes onto which a tensor can be projected with the least loss.

    Args:
        tensor: any.
        modes: along which.
        ranks: of each of them.

    Returns:
        A local optimum; those of each unfolding by itself (HOSVD) where they are the optimum: with one free basis, or
        one mode besides that.
    """
    found = [leading_basis(unfold(tensor, mode), rank) for mode, rank in zip(modes, ranks, strict=True)]
    free = [mode for mode, rank in zip(modes, ranks, strict=True) if rank < tensor.shape[mode]]
    whole = float(np.linalg.norm(tensor))
    if len(free) < 2 or sum(size > 1 for size in tensor.shape) < 3 or not whole:
        return found
    before = math.inf
    for _ in range(ROUNDS):
        for i, (mode, rank) in enumerate(zip(modes, ranks, strict=True)):
            projected = tensor
            for j, other in enumerate(modes):
                if j != i:
                    projected = np.moveaxis(np.tensordot(projected, found[j], (other, 0)), -1, other)
            unfolded = unfold(projected, mode)
            found[i] = leading_basis(unfolded, rank)
        kept = float(np.linalg.norm(found[-1].T @ unfolded)) / whole
        error = math.sqrt(max(1 - kept**2, 0.0))
        if before - error < TOLERANCE:
            break
        before = error
    return found
