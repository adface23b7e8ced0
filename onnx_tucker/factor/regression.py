"""Least squares from what a layer's inputs and wanted outputs have in common.

The rows are patches p, the inputs that one output position sees, and the outputs y wanted there. From their moments
follows the weight that predicts y from p best, drawn towards the trained weight W0:

    T = (E y p^T + r W0) (E p p^T + r I)^-1        r = ridge * mean of the diagonal of E p p^T

(ridge regression with a prior mean; Hoerl and Kennard, Technometrics 12, 1970), of moments about the means where the
layer has a bias to take the rest. What truncation is to preserve is weighed by the second moment of p, shrunk as the
number of rows tells it to be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.factor.fit import Goal
from onnx_tucker.types import Array

ROUNDING = 1e-10
"""The share of a sum that its rounding may be as large as."""

LEAST = 1e-6
"""The least share of the identity in a second moment."""


class Statistics(Protocol):
    """What is known of a layer's rows."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def add(self, patches: Array, outputs: Array) -> int:
        """Takes in rows; those that are not finite are left out.

        Args:
            patches: (rows, groups, in * volume).
            outputs: (rows, groups, out).

        Returns:
            How many rows were left out.
        """
        ...

    def targets(self, weight: Array, ridge: float, *, bias: bool) -> list[Array]:
        """What each group's weight should be, (out, in, volume).

        Args:
            weight: the trained one, (groups * out, in, *kernel).
            ridge: how strongly it draws, relative to the mean square of an input.
            bias: whether the layer has a bias to take the means.
        """
        ...

    def goals(self, targets: Sequence[Array], *, bias: bool, shrink: float | None = None) -> list[Goal]:
        """What each group is fitted to: its target weight, and the second moment that errors of it are measured in.

        Args:
            targets: what each group's weight should be.
            bias: whether the layer has a bias to take the means.
            shrink: the share of the identity in the second moment, 1 for what the weight alone says; None for what the
                number of rows says.
        """
        ...

    def bias(self, weight: Array) -> Array:
        """What has to be added to the outputs of a weight (groups * out, in, *kernel) for their means to be right."""
        ...

    def loss(self, targets: Sequence[Array], *, bias: bool) -> float:
        """Squared error of predictions by a weight of each group, up to a constant."""
        ...

    def squares(self, weights: Sequence[Array], *, bias: bool) -> float:
        """Mean square of what a weight of each group, (out, in, volume), gives; about the mean, if a bias takes that.

        Args:
            weights: of each group.
            bias: whether the layer has a bias to take the means.
        """
        ...

    def mixed(self, mixture: Array) -> Statistics:
        """What is known of other outputs: of each group some sums of its outputs.

        Args:
            mixture: what goes into each of them, (sums, out).
        """
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that is known, from which it can be made again."""
        ...


def diagonal(moment: Array, width: int, whole: float) -> float:
    """The mean of the diagonal of a second moment of so many values, in which pulls are measured.

    Args:
        moment: about the means, if there is a bias to take those.
        width: how many values.
        whole: the trace before the means were taken off, below whose rounding there is nothing left.
    """
    return max(float(np.trace(moment)), ROUNDING * whole) / width or 1.0


def shrinkage(mean: float, squared: float, width: int, rows: int) -> float:
    """How far a second moment of few rows is to be drawn towards a multiple of the identity, from 0 to 1.

    Oracle approximating shrinkage: Chen, Wiesel, Eldar and Hero, "Shrinkage Algorithms for MMSE Covariance
    Estimation", IEEE Transactions on Signal Processing 58, 2010, equation (23).

    Args:
        mean: of its diagonal.
        squared: the sum of its squared entries.
        width: its rows and columns.
        rows: that it is the mean of.
    """
    total = (mean * width) ** 2
    spread = squared - total / width
    if spread <= 0:
        return 1.0
    return float(np.clip(((1 - 2 / width) * squared + total) / ((rows + 1 - 2 / width) * spread), LEAST, 1.0))


def finite(patches: Array, outputs: Array) -> tuple[Array, Array]:
    """The rows that are finite, (groups, rows, values) of each, in float64."""
    finite = np.asarray(np.isfinite(patches).all((1, 2)) & np.isfinite(outputs).all((1, 2)))
    p, y = (array[finite].astype(np.float64).swapaxes(0, 1) for array in (patches, outputs))
    return p, y
