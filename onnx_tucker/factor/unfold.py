"""Unfoldings of a canonical weight `W[out, in, *kernel]` and the spectra along its modes.

Kolda and Bader, "Tensor Decompositions and Applications", SIAM Review 2009, section 2.4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_tucker.types import Array

OUT, IN = 0, 1
CHUNK = 2**23
"""Values that are turned into double precision at a time."""
MANY = 0.25
"""The share of the eigenvectors from which on all of them take less time than each by itself."""


def unfold(weight: Array, mode: int) -> Array:
    """The matrix whose rows are the slices of `weight` along `mode`."""
    return np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1)


def leading_basis(matrix: Array, rank: int) -> Array:
    """Orthonormal (rows, rank) basis of the leading left singular vectors of a (rows, columns) matrix.

    It comes from the Gram matrix of the shorter side, so that neither long factor is formed in full, and it is complete
    even where `rank` exceeds the matrix's rank. Signs are fixed: the largest entry of each vector is positive.
    """
    rows, columns = matrix.shape
    if rank <= columns < rows:
        vectors = np.linalg.qr(matrix @ _leading(gram(matrix.T), rank))[0]
    else:
        vectors = _leading(gram(matrix), rank)
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(rank)] < 0, -1.0, 1.0)
    return np.asarray(vectors * signs)


def _leading(square: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    """The eigenvectors of a symmetric matrix with the largest eigenvalues."""
    size = len(square)
    if rank > MANY * size:
        return np.linalg.eigh(square)[1][:, : -rank - 1 : -1]
    return np.asarray(scipy.linalg.eigh(square, subset_by_index=(size - rank, size - 1))[1][:, ::-1])


def across(weight: Array) -> Array:
    """The matrix (in * later kernel axes, first kernel axis * out) of a weight with two kernel axes or more."""
    return np.moveaxis(weight, (OUT, 2), (-1, -2)).reshape(-1, weight.shape[2] * weight.shape[OUT])


def taps(weight: Array) -> Array:
    """The matrix whose rows are the slices of `weight` at one kernel element."""
    rows = weight.reshape(*weight.shape[:2], -1).transpose(2, 0, 1)
    return np.asarray(rows.reshape(len(rows), -1))


UNFOLDINGS: dict[str, Callable[[Array], Array]] = {
    "out": lambda weight: unfold(weight, OUT),
    "in": lambda weight: unfold(weight, IN),
    "matrix": lambda weight: unfold(weight, OUT),
    "across": across,
    "kernel": taps,
}
"""The unfolding that each mode of a method is about, by its name."""


class Spectra:
    """Singular values of a weight along its modes, computed once and only when asked for.

    Attributes:
        parts: the weight of each group.

    Args:
        weight: (groups * out, in, *kernel).
        groups: parts along the first axis that are factorised by themselves, at the same ranks.
    """

    def __init__(self, weight: Array, groups: int = 1) -> None:
        self.parts = np.split(weight, groups)
        self._known: dict[str, list[Array]] = {}

    def of_parts(self, mode: str) -> list[Array]:
        """Singular values of each group's unfolding along a mode, descending."""
        matrix = self.parts[0][0, 0].size == 1
        key = "out" if mode == "matrix" or (mode == "in" and matrix) else mode
        if key not in self._known:
            self._known[key] = [self._values(key, group) for group in range(len(self.parts))]
        return self._known[key]

    def _values(self, key: str, group: int) -> Array:
        return singular_values(UNFOLDINGS[key](self.parts[group]))

    def of(self, mode: str) -> Array:
        """Root mean squares over groups of the singular values of a mode, which lose what all groups together do."""
        return _root_mean_square(self.of_parts(mode))


def singular_values(matrix: Array) -> Array:
    """All singular values, descending, without any factor.

    Those of single precision come from the Gram matrix of the shorter side in double precision, whose rounding is below
    that of the matrix itself.
    """
    if matrix.dtype.itemsize > 4:
        return np.asarray(np.linalg.svd(matrix.astype(np.float64), compute_uv=False))
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(gram(short))[::-1], 0.0)))


def gram(matrix: Array) -> NDArray[np.float64]:
    """The rows x rows matrix of inner products, in double precision without a copy of the whole matrix in that."""
    rows, columns = matrix.shape
    total = np.zeros((rows, rows))
    width = max(1, CHUNK // max(rows, 1))
    for start in range(0, columns, width):
        chunk = matrix[:, start : start + width].astype(np.float64)
        total += chunk @ chunk.T
    return total


def _root_mean_square(values: list[Array]) -> Array:
    return values[0] if len(values) == 1 else np.sqrt(np.mean(np.square(values), axis=0))


def lost_share(values: Array, rank: int) -> float:
    """Share of the squared singular values beyond the first `rank`."""
    energy = np.square(values)
    total = float(energy.sum())
    return float(energy[rank:].sum()) / total if total else 0.0
