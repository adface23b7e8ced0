"""Arrays as one vector, in coordinates in which a sum of squares curves about alike in all directions.

With J the derivatives of what is squared by an array, the sum curves by J^T J. That is taken for a Kronecker product of
one matrix for each axis of the array, which the second moments of J along the axes tell (Gupta, Koren and Singer,
"Shampoo: Preconditioned Stochastic Tensor Optimization", ICML 2018, section 3, for gradients). A descent that knows
curvature only from its own steps takes a fraction of them then. Where few samples are all that tells when to stop, as
for the last layers together, plain units of the arrays led to values that were closer on others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from onnx_tucker.factor.scaled import joined, split
from onnx_tucker.types import Array

PROBES = 16
"""Sums that suffice for the curvature to be known from."""
DAMPED = 0.1
"""Share of the mean curvature along an axis that its directions have at least; more where little is known of them."""
WIDE = 1024
"""Values of an axis above which its directions are taken to be alike."""


class Preconditioner:
    """The coordinates of arrays; where they begin all are zero.

    Args:
        parts: the arrays where a descent begins.
        probes: derivatives with respect to the arrays of sums of what is squared, with signs drawn at random; all
            probes together have each of it once.

    Attributes:
        start: the coordinates there.
    """

    def __init__(self, parts: Sequence[Array], probes: Iterable[Sequence[Array]]) -> None:
        self._parts = list(parts)
        self.start: Array = np.zeros(sum(part.size for part in parts))
        moments = [_Moments(part.shape) for part in parts]
        for probe in probes:
            for one, derivatives in zip(moments, probe, strict=True):
                one.add(derivatives)
        self._roots = [one.root() for one in moments]

    def parts(self, coordinates: Array) -> list[Array]:
        """The arrays with these coordinates."""
        moved = split(coordinates, [part.shape for part in self._parts])
        return [part + root.times(step) for part, root, step in zip(self._parts, self._roots, moved, strict=True)]

    def derivatives(self, parts: Sequence[Array]) -> Array:
        """Of a function with respect to the coordinates, from those with respect to the arrays."""
        return joined([root.times(part) for root, part in zip(self._roots, parts, strict=True)])


class _Moments:
    """Second moments of derivatives with respect to an array along its axes, those from the third on as one."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape) if len(shape) < 3 else (*shape[:2], math.prod(shape[2:]))
        self._along = {axis: np.zeros((n, n)) for axis, n in enumerate(self._shape) if 1 < n <= WIDE}
        self._total, self._probes = 0.0, 0

    def add(self, derivatives: Array) -> None:
        """Takes further ones."""
        shaped = derivatives.reshape(self._shape)
        total = float(np.square(shaped, dtype=np.float64).sum())
        if not 0 < total < math.inf:
            return
        self._total, self._probes = self._total + total, self._probes + 1
        for axis, moment in self._along.items():
            unfolded = np.moveaxis(shaped, axis, 0).reshape(len(moment), -1)
            moment += unfolded @ unfolded.T

    def root(self) -> _Root:
        """The inverse root of the curvature."""
        total = self._total or 1.0
        samples = max(1, self._probes) * math.prod(self._shape)
        roots = {
            axis: _inverse_root(moment / total, max(DAMPED, len(moment) ** 2 / samples))
            for axis, moment in self._along.items()
        }
        alike = math.prod(n for axis, n in enumerate(self._shape) if axis not in roots)
        return _Root(self._shape, roots, math.sqrt(alike / total))


class _Root:
    """A Kronecker product of symmetric matrices.

    Args:
        shape: of the arrays that it is multiplied with.
        factors: the matrices by axis; it is the identity along the others.
        scale: of all.
    """

    def __init__(self, shape: tuple[int, ...], factors: dict[int, Array], scale: float) -> None:
        self._shape, self._factors, self._scale = shape, factors, scale

    def times(self, array: Array) -> Array:
        """An array multiplied by it."""
        made = self._scale * array.reshape(self._shape)
        for axis, factor in self._factors.items():
            made = np.moveaxis(np.tensordot(factor, made, (1, axis)), 0, axis)
        return made.reshape(array.shape)


def _inverse_root(moment: Array, damped: float) -> Array:
    """That of a moment of trace one with so many times its mean added."""
    values, vectors = np.linalg.eigh(moment)
    values = (np.maximum(values, 0.0) + damped / len(values)) / (1 + damped)
    return np.asarray(vectors / np.sqrt(values) @ vectors.T)
