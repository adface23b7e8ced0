"""What the rows of a layer have in common, summed up batch by batch in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.factor.fit import Goal
from onnx_tucker.factor.metric import Dense, solved
from onnx_tucker.factor.regression import diagonal, finite, shrinkage
from onnx_tucker.types import Array, Stage


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
        """See `regression.Statistics`."""
        p, y = finite(patches, outputs)
        self.rows += p.shape[1]
        self.patch += p.sum(axis=1)
        self.output += y.sum(axis=1)
        self.squared += p.swapaxes(1, 2) @ p
        self.crossed += y.swapaxes(1, 2) @ p
        return len(patches) - int(p.shape[1])

    def __add__(self, other: Moments) -> Moments:
        """Those of the rows of both."""
        return Moments(
            self.rows + other.rows,
            self.patch + other.patch,
            self.output + other.output,
            self.squared + other.squared,
            self.crossed + other.crossed,
        )

    def targets(self, weight: Array, ridge: float, *, bias: bool) -> list[Array]:
        """See `regression.Statistics`."""
        groups, out = self.output.shape
        shaped, found = weight.astype(np.float64).reshape(groups, out, -1), []
        for squared, crossed, whole, own in zip(*self._about(bias), self._whole(), shaped, strict=True):
            pull = ridge * diagonal(squared, len(squared), whole)
            squared.flat[:: len(squared) + 1] += pull
            target = solved(squared, (crossed + pull * own).T).T
            found.append(target.reshape(out, weight.shape[1], -1))
        return found

    def goals(self, targets: Sequence[Array], *, bias: bool, shrink: float | None = None) -> list[Goal]:
        """See `regression.Statistics`."""
        found = []
        for squared, whole, target in zip(self._about(bias)[0], self._whole(), targets, strict=True):
            width = len(squared)
            mean = diagonal(squared, width, whole)
            shrunk = shrink or shrinkage(mean, float(np.vdot(squared, squared)), width, self.rows)
            squared *= 1 - shrunk
            squared.flat[:: width + 1] += shrunk * mean
            found.append(Goal(target, Dense(squared)))
        return found

    def bias(self, weight: Array) -> Array:
        """See `regression.Statistics`."""
        predicted = np.einsum("god,gd->go", weight.reshape(*self.output.shape, -1), self.patch)
        return np.asarray((self.output - predicted).ravel() / max(self.rows, 1))

    def loss(self, targets: Sequence[Array], *, bias: bool) -> float:
        """See `regression.Statistics`."""
        total, rows = 0.0, max(self.rows, 1)
        for squared, crossed, p, y, target in zip(
            self.squared, self.crossed, self.patch, self.output, targets, strict=True
        ):
            weight = target.reshape(len(target), -1)
            missed = weight @ squared - 2 * crossed
            if bias:
                missed -= np.outer(weight @ p - 2 * y, p / rows)
            total += float(np.einsum("od,od->", missed, weight)) / rows
        return total

    def squares(self, weights: Sequence[Array], *, bias: bool) -> float:
        """See `regression.Statistics`."""
        shaped = [weight.reshape(len(weight), -1) for weight in weights]
        rows, pairs = max(self.rows, 1), zip(shaped, self.squared, strict=True)
        total = sum(float(np.einsum("od,od->", weight @ squared, weight)) for weight, squared in pairs) / rows
        means = (w @ p / rows for w, p in zip(shaped, self.patch, strict=True)) if bias else ()
        return total - sum(float(mean @ mean) for mean in means)

    def mixed(self, mixture: Array) -> Moments:
        """See `regression.Statistics`; the sums of patches are the same ones, so that neither may be added to then."""
        return Moments(self.rows, self.patch, self.output @ mixture.T, self.squared, mixture @ self.crossed)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `regression.Statistics`."""
        sums = {"patch": self.patch, "output": self.output, "squared": self.squared, "crossed": self.crossed}
        return {"rows": np.array(self.rows), **sums}

    def _whole(self) -> list[float]:
        """The traces of the mean outer products, not about the means."""
        return [float(np.trace(squared)) / max(self.rows, 1) for squared in self.squared]

    def _about(self, bias: bool) -> tuple[Array, Array]:
        """Mean outer products, in arrays of their own; about the means if there is a bias to take those."""
        rows = max(self.rows, 1)
        squared, crossed = self.squared / rows, self.crossed / rows
        if bias:
            mean = self.patch / rows
            squared -= mean[:, :, None] * mean[:, None, :]
            crossed -= self.output[:, :, None] / rows * mean[:, None, :]
        return squared, crossed
