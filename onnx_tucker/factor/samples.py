"""The rows of a layer themselves, where they are few for the values that one sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.factor.fit import Goal
from onnx_tucker.factor.metric import Sampled, centred, raised, solved
from onnx_tucker.factor.moments import Moments
from onnx_tucker.factor.regression import Statistics, diagonal, finite, shrinkage
from onnx_tucker.types import Array, Stage


class Samples:
    """The rows themselves.

    Args:
        patches: (groups, rows, in * volume).
        outputs: (groups, rows, out).
    """

    def __init__(self, patches: Array, outputs: Array) -> None:
        self._parts, self._known = [(patches, outputs)], list[Array]()
        self._about: dict[bool, list[tuple[Array, float]]] = {}

    @classmethod
    def none(cls, stage: Stage) -> Samples:
        """Those of no rows at a site."""
        return cls(*(np.zeros((stage.groups, 0, n)) for n in (stage.inp * stage.window.volume, stage.out)))

    @property
    def rows(self) -> int:
        """See `regression.Statistics`."""
        return sum(int(patches.shape[1]) for patches, _ in self._parts)

    def add(self, patches: Array, outputs: Array) -> int:
        """See `regression.Statistics`."""
        self._parts.append(finite(patches, outputs))
        return len(patches) - int(self._parts[-1][0].shape[1])

    def __add__(self, other: Samples) -> Samples:
        """Those of both; inner products that are known on either side are not made again."""
        both = Samples(*(np.concatenate(pair, 1) for pair in zip(self._both(), other._both(), strict=True)))
        if self._is_known and other._is_known and both.rows:
            for p, q, one, two in zip(self.patches, other.patches, self._known, other._known, strict=True):
                across = p @ q.T
                both._known.append(np.block([[one * self.rows, across], [across.T, two * other.rows]]) / both.rows)
        return both

    @property
    def patches(self) -> Array:
        """What they see, (groups, rows, in * volume)."""
        return self._both()[0]

    @property
    def outputs(self) -> Array:
        """What is wanted, (groups, rows, out)."""
        return self._both()[1]

    def _both(self) -> tuple[Array, Array]:
        if len(self._parts) > 1:
            patches, outputs = (np.concatenate(arrays, 1) for arrays in zip(*self._parts, strict=True))
            self._parts = [(patches, outputs)]
        return self._parts[0]

    @property
    def _is_known(self) -> bool:
        return len(self._known) == len(self.patches) and len(self._known[0]) == self.rows

    def targets(self, weight: Array, ridge: float, *, bias: bool) -> list[Array]:
        """See `regression.Statistics`; the equation of `regression` in the space of the rows (Woodbury)."""
        groups, count, out = self.outputs.shape
        shaped, found = weight.astype(np.float64).reshape(groups, out, -1), []
        for p, y, (gram, mean), own in zip(self.patches, self.outputs, self._grams(bias), shaped, strict=True):
            missed = solved(raised(gram, ridge * mean), centred(y - p @ own.T, bias))
            target = own + centred(missed, bias).T @ p / count
            found.append(target.reshape(out, weight.shape[1], -1))
        return found

    def goals(self, targets: Sequence[Array], *, bias: bool, shrink: float | None = None) -> list[Goal]:
        """See `regression.Statistics`."""
        found = []
        for p, (gram, mean), target in zip(self.patches, self._grams(bias), targets, strict=True):
            shrunk = shrink or shrinkage(mean, float(np.square(gram).sum()), p.shape[1], self.rows)
            found.append(Goal(target, Sampled(p, shrunk * mean, 1 - shrunk, bias)))
        return found

    def _grams(self, bias: bool) -> list[tuple[Array, float]]:
        """The inner products of all rows with one another, over their number, for every group, and their `diagonal`."""
        if not self._is_known:
            self._known, self._about = [p @ p.T / len(p) for p in self.patches], {}
        if bias not in self._about:
            width = self.patches.shape[2]
            pairs = [(_about_mean(gram) if bias else gram, float(np.trace(gram))) for gram in self._known]
            self._about[bias] = [(gram, diagonal(gram, width, whole)) for gram, whole in pairs]
        return self._about[bias]

    def bias(self, weight: Array) -> Array:
        """See `regression.Statistics`."""
        shaped = weight.reshape(len(self.outputs), -1, self.patches.shape[2])
        return np.asarray((self.outputs - self.patches @ shaped.swapaxes(1, 2)).mean(axis=1).ravel())

    def loss(self, targets: Sequence[Array], *, bias: bool) -> float:
        """See `regression.Statistics`."""
        shaped = (target.reshape(len(target), -1) for target in targets)
        missed = (y - p @ t.T for p, y, t in zip(self.patches, self.outputs, shaped, strict=True))
        return sum(float(np.square(centred(part, bias)).sum()) for part in missed) / max(self.rows, 1)

    def squares(self, weights: Sequence[Array], *, bias: bool) -> float:
        """See `regression.Statistics`."""
        outputs = (p @ weight.reshape(len(weight), -1).T for p, weight in zip(self.patches, weights, strict=True))
        return sum(float(np.square(centred(part, bias)).sum()) for part in outputs) / max(self.rows, 1)

    def mixed(self, mixture: Array) -> Samples:
        """See `regression.Statistics`; of the same rows, whose inner products are not made again."""
        other = Samples(self.patches, self.outputs @ mixture.T)
        self._grams(bias=False)
        other._known, other._about = self._known, self._about
        return other

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `regression.Statistics`."""
        return {"patches": self.patches, "outputs": self.outputs}


def joined(one: Statistics, other: Statistics) -> Statistics:
    """What is known of the rows of both: they themselves, or their moments where they are more than one sees values."""
    if isinstance(one, Samples) and isinstance(other, Samples) and one.rows + other.rows <= one.patches.shape[2]:
        return one + other
    return _summed(one) + _summed(other)


def _summed(known: Statistics) -> Moments:
    if isinstance(known, Moments):
        return known
    assert isinstance(known, Samples)
    p, y = known.patches, known.outputs
    return Moments(known.rows, p.sum(axis=1), y.sum(axis=1), p.swapaxes(1, 2) @ p, y.swapaxes(1, 2) @ p)


def _about_mean(gram: Array) -> Array:
    """Inner products of rows, over their number, as they are about the mean of the rows."""
    means = gram.mean(axis=0)
    found: Array = gram - means
    found -= (means - means.mean())[:, None]
    return found
