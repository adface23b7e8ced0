"""Unfoldings of a canonical weight `W[out, in, *kernel]` and the spectra along its channel modes.

Kolda and Bader, "Tensor Decompositions and Applications", SIAM Review 2009, section 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_tucker.types import Array

OUT, IN = 0, 1


def unfold(weight: Array, mode: int) -> Array:
    """The matrix whose rows are the slices of `weight` along `mode`."""
    return np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1)


def leading_basis(matrix: Array, rank: int) -> Array:
    """Orthonormal (rows, rank) basis of the leading left singular vectors of a (rows, columns) matrix.

    A wide matrix goes through its rows x rows Gram matrix, so that the long right factor is never formed, and the
    basis is complete even where `rank` exceeds the matrix's rank. Signs are fixed: the largest entry of each vector
    is positive.
    """
    rows, columns = matrix.shape
    if rank <= columns < rows:
        vectors = np.linalg.svd(matrix, full_matrices=False)[0]
    else:
        vectors = np.linalg.eigh(matrix @ matrix.T)[1][:, ::-1]
    vectors = vectors[:, :rank]
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(rank)] < 0, -1.0, 1.0)
    return np.asarray(vectors * signs)


@dataclass(frozen=True, eq=False)
class Spectra:
    """Singular values along the two channel modes of a weight, computed once and only when asked for."""

    weight: Array

    @cached_property
    def out(self) -> Array:
        """Singular values of the (out, in * kernel) unfolding, descending."""
        return singular_values(unfold(self.weight, OUT))

    @cached_property
    def inp(self) -> Array:
        """Singular values of the (in, out * kernel) unfolding, descending; `out` again for a matrix."""
        return self.out if self.weight[0, 0].size == 1 else singular_values(unfold(self.weight, IN))


def singular_values(matrix: Array) -> Array:
    """All singular values, descending, without any factor."""
    return np.asarray(np.linalg.svd(matrix.astype(np.float64), compute_uv=False))


def lost_share(values: Array, rank: int) -> float:
    """Share of the squared singular values beyond the first `rank`."""
    energy = np.square(values)
    total = float(energy.sum())
    return float(energy[rank:].sum()) / total if total else 0.0
