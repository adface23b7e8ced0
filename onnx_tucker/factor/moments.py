"""What a layer's inputs and wanted outputs have in common, summed up batch by batch in float64.

The rows that are summed are patches p, the inputs that one output position sees, and the outputs y wanted there. From
their moments follows the weight that predicts y from p best, by least squares drawn towards the trained weight W0:

    T = (E y p^T + r W0) (E p p^T + r I)^-1        r = ridge * mean of the diagonal of E p p^T

(ridge regression with a prior mean; Hoerl and Kennard, Technometrics 12, 1970), of moments about the means where the
layer has a bias to take the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from onnx_tucker.factor.fit import Goal
from onnx_tucker.types import Array, Stage

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""How strongly the trained weight draws, from which `ridge` chooses."""


@dataclass(eq=False)
class Moments:
    """Sums over rows, for every group by itself.

    Attributes:
        rows: how many.
        patch: sum of the patches, (groups, in * volume).
        output: sum of the wanted outputs, (groups, out).
        squared: sum of the outer products of the patches, (groups, in * volume, in * volume).
        crossed: the same of outputs and patches, (groups, out, in * volume).
    """

    rows: int
    patch: Array
    output: Array
    squared: Array
    crossed: Array

    @classmethod
    def none(cls, stage: Stage) -> Moments:
        """Those of no rows at a site."""
        groups, out, width = stage.groups, stage.out, stage.inp * stage.window.volume
        shapes = (groups, width), (groups, out), (groups, width, width), (groups, out, width)
        return cls(0, *(np.zeros(shape) for shape in shapes))

    def add(self, patches: Array, outputs: Array) -> int:
        """Sums up rows; those that are not finite are left out.

        Args:
            patches: (rows, groups, in * volume).
            outputs: (rows, groups, out).

        Returns:
            How many rows were left out.
        """
        finite = np.asarray(np.isfinite(patches).all((1, 2)) & np.isfinite(outputs).all((1, 2)))
        p, y = (array[finite].astype(np.float64).swapaxes(0, 1) for array in (patches, outputs))
        self.rows += int(finite.sum())
        self.patch += p.sum(axis=1)
        self.output += y.sum(axis=1)
        self.squared += p.swapaxes(1, 2) @ p
        self.crossed += y.swapaxes(1, 2) @ p
        return len(finite) - int(finite.sum())

    def __add__(self, other: Moments) -> Moments:
        """Those of the rows of both."""
        return Moments(
            self.rows + other.rows,
            self.patch + other.patch,
            self.output + other.output,
            self.squared + other.squared,
            self.crossed + other.crossed,
        )

    def goals(self, weight: Array, ridge: float, *, bias: bool) -> list[Goal]:
        """What each group's weight should be, and how much it matters where it is not.

        Args:
            weight: the trained one, (groups * out, in, *kernel).
            ridge: how strongly it draws, relative to the mean square of an input.
            bias: whether the layer has a bias to take the means.
        """
        groups, out = self.output.shape
        trained = weight.astype(np.float64).reshape(groups, out, -1)
        found = []
        for squared, crossed, own in zip(*self._about(bias), trained, strict=True):
            pull = ridge * (np.trace(squared) / len(squared) or 1.0)
            squared = squared + pull * np.eye(len(squared))
            target = scipy.linalg.solve(squared, (crossed + pull * own).T, assume_a="pos").T
            found.append(Goal(target.reshape(out, weight.shape[1], -1), squared))
        return found

    def bias(self, weight: Array) -> Array:
        """What has to be added to the outputs of a weight (groups * out, in, *kernel) for their means to be right."""
        predicted = np.einsum("god,gd->go", weight.reshape(*self.output.shape, -1), self.patch)
        return np.asarray((self.output - predicted).ravel() / max(self.rows, 1))

    def loss(self, targets: Sequence[Array], *, bias: bool) -> float:
        """Squared error of predictions by a weight of each group, up to a constant."""
        total = 0.0
        for squared, crossed, target in zip(*self._about(bias), targets, strict=True):
            weight = target.reshape(len(target), -1)
            total += float(np.einsum("od,od->", weight @ squared - 2 * crossed, weight))
        return total

    def _about(self, bias: bool) -> tuple[Array, Array]:
        """Mean outer products, about the means if there is a bias to take those."""
        rows = max(self.rows, 1)
        squared, crossed = self.squared / rows, self.crossed / rows
        if bias:
            mean = self.patch / rows
            squared = squared - mean[:, :, None] * mean[:, None, :]
            crossed = crossed - self.output[:, :, None] / rows * mean[:, None, :]
        return squared, crossed


def ridge(one: Moments, other: Moments, weight: Array, *, bias: bool) -> float:
    """The ridge at which the best weight of one half of the samples predicts those of the other half best.

    Args:
        one: moments of some samples.
        other: of others.
        weight: the trained weight.
        bias: as in `Moments.goals`.
    """

    def loss(value: float) -> float:
        pairs = ((one, other), (other, one))
        return sum(b.loss([g.target for g in a.goals(weight, value, bias=bias)], bias=bias) for a, b in pairs)

    return min(RIDGES, key=loss)
