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
    """Singular values along the two channel modes of a weight, computed once and only when asked for.

    Attributes:
        weight: (groups * out, in, *kernel).
        groups: parts along the first axis that are factorised by themselves, at the same ranks.
    """

    weight: Array
    groups: int = 1

    @cached_property
    def parts(self) -> list[Array]:
        """The weight of each group."""
        return np.split(self.weight, self.groups)

    def of_parts(self, mode: int) -> list[Array]:
        """Singular values of each group's unfolding along `mode`, descending."""
        return self._inp if mode == IN and self.weight[0, 0].size > 1 else self._out

    @property
    def out(self) -> Array:
        """Singular values of the (out, in * kernel) unfolding, descending.

        Of several groups, their root mean squares: its lost share is then that of all groups together.
        """
        return _root_mean_square(self.of_parts(OUT))

    @property
    def inp(self) -> Array:
        """The same of the (in, out * kernel) unfolding; `out` again for a matrix."""
        return _root_mean_square(self.of_parts(IN))

    @cached_property
    def _out(self) -> list[Array]:
        return [singular_values(unfold(part, OUT)) for part in self.parts]

    @cached_property
    def _inp(self) -> list[Array]:
        return [singular_values(unfold(part, IN)) for part in self.parts]


def singular_values(matrix: Array) -> Array:
    """All singular values, descending, without any factor."""
    return np.asarray(np.linalg.svd(matrix.astype(np.float64), compute_uv=False))


def _root_mean_square(values: list[Array]) -> Array:
    return values[0] if len(values) == 1 else np.sqrt(np.mean(np.square(values), axis=0))


def lost_share(values: Array, rank: int) -> float:
    """Share of the squared singular values beyond the first `rank`."""
    energy = np.square(values)
    total = float(energy.sum())
    return float(energy[rank:].sum()) / total if total else 0.0
