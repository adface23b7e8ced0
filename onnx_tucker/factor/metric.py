"""How much a layer's outputs change with its weight: the second moment C of the patches that it sees.

Formed as a matrix where there are more rows than inputs, and kept as the rows themselves where there are fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onnx_tucker.types import Array

FLOOR = 1e-9
"""Share of the largest eigenvalue below which others count as this much, where roots and inverses are taken."""


class Metric(Protocol):
    """A second moment of patches, (in * volume, in * volume), positive definite."""

    def times(self, weights: Array) -> Array:
        """`weights @ C` for any number of rows of weights, (rows, in * volume)."""
        ...

    def channels(self, inp: int) -> Array:
        """The second moment of the `inp` input channels, mean over the kernel elements."""
        ...


@dataclass(frozen=True, eq=False)
class Dense:
    """The matrix itself."""

    moment: Array

    def times(self, weights: Array) -> Array:
        """See `Metric`."""
        return np.asarray(weights @ self.moment)

    def channels(self, inp: int) -> Array:
        """See `Metric`."""
        moment = self.moment.reshape(inp, -1, inp, len(self.moment) // inp)
        return np.asarray(np.einsum("ikjk->ij", moment) / moment.shape[1])


@dataclass(frozen=True, eq=False)
class Sampled:
    """The mean over rows, and a multiple of the identity: rows^T rows / count + ridge.

    Attributes:
        rows: patches, (count, in * volume).
        ridge: the multiple.
    """

    rows: Array
    ridge: float

    def times(self, weights: Array) -> Array:
        """See `Metric`."""
        return np.asarray((weights @ self.rows.T) @ self.rows / len(self.rows) + self.ridge * weights)

    def channels(self, inp: int) -> Array:
        """See `Metric`."""
        rows = self.rows.reshape(len(self.rows), inp, -1).swapaxes(0, 1).reshape(inp, -1)
        return np.asarray(rows @ rows.T / rows.shape[1] + self.ridge * np.eye(inp))


def roots(moment: Array) -> tuple[Array, Array]:
    """Symmetric square root of a second moment, and its inverse."""
    values, vectors = np.linalg.eigh(moment)
    values = np.sqrt(np.maximum(values, FLOOR * (values.max() or 1.0)))
    return vectors * values @ vectors.T, vectors / values @ vectors.T
