"""What a layer's inputs and wanted outputs have in common, summed up batch by batch in float64.

The rows that are summed are patches p, the inputs that one output position sees, and the outputs y wanted there. From
their moments follows the weight that predicts y from p best, by least squares drawn towards the trained weight W0:

    T = (E y p^T + r W0) (E p p^T + r I)^-1        r = ridge * mean of the diagonal of E p p^T

(ridge regression with a prior mean; Hoerl and Kennard, Technometrics 12, 1970), of moments about the means where the
layer has a bias to take the rest. What truncation is to preserve is weighed by the second moment of p, shrunk as the
number of rows tells it to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.factor.fit import Goal
from onnx_tucker.factor.metric import Dense, Sampled, centred, solved
from onnx_tucker.types import Array, Stage

if TYPE_CHECKING:
    from typing_extensions import Self

Value = TypeVar("Value")

RIDGES = (1e4, 1e3, 1e2, 10.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""How strongly the trained weight draws, from which `ridge` chooses."""

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

    def __add__(self, other: Self) -> Self:
        """What is known of the rows of both."""
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
        """The same, and how much it matters where a weight is not that.

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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that is known, as `restored` takes it."""
        ...


@dataclass(eq=False)
class Samples:
    """The rows themselves, for layers with more inputs than there are rows.

    Attributes:
        patches: (groups, rows, in * volume).
        outputs: (groups, rows, out).
    """

    patches: Array
    outputs: Array
    _known: list[Array] = field(default_factory=list, init=False, repr=False)

    @classmethod
    def none(cls, stage: Stage) -> Samples:
        """Those of no rows at a site."""
        return cls(*(np.zeros((stage.groups, 0, n)) for n in (stage.inp * stage.window.volume, stage.out)))

    @property
    def rows(self) -> int:
        """See `Statistics`."""
        return int(self.patches.shape[1])

    def add(self, patches: Array, outputs: Array) -> int:
        """See `Statistics`."""
        p, y = _finite(patches, outputs)
        self.patches, self.outputs = np.concatenate([self.patches, p], 1), np.concatenate([self.outputs, y], 1)
        return len(patches) - int(p.shape[1])

    def __add__(self, other: Samples) -> Samples:
        """See `Statistics`; inner products that are known on either side are not made again."""
        both = Samples(*(np.concatenate(pair, 1) for pair in zip(self._both(), other._both(), strict=True)))
        if self._is_known and other._is_known and both.rows:
            for p, q, one, two in zip(self.patches, other.patches, self._known, other._known, strict=True):
                across = p @ q.T
                both._known.append(np.block([[one * self.rows, across], [across.T, two * other.rows]]) / both.rows)
        return both

    def _both(self) -> tuple[Array, Array]:
        return self.patches, self.outputs

    @property
    def _is_known(self) -> bool:
        return len(self._known) == len(self.patches) and len(self._known[0]) == self.rows

    def targets(self, weight: Array, ridge: float, *, bias: bool) -> list[Array]:
        """See `Statistics`; the equation of the module in the space of the rows (Woodbury)."""
        groups, count, out = self.outputs.shape
        shaped, found = weight.astype(np.float64).reshape(groups, out, -1), []
        for p, y, (gram, mean), own in zip(self.patches, self.outputs, self._grams(bias), shaped, strict=True):
            missed = solved(gram + ridge * mean * np.eye(count), centred(y - p @ own.T, bias))
            target = own + centred(missed, bias).T @ p / count
            found.append(target.reshape(out, weight.shape[1], -1))
        return found

    def goals(self, targets: Sequence[Array], *, bias: bool, shrink: float | None = None) -> list[Goal]:
        """See `Statistics`."""
        found = []
        for p, (gram, mean), target in zip(self.patches, self._grams(bias), targets, strict=True):
            shrunk = shrink or _shrinkage(mean, float(np.square(gram).sum()), p.shape[1], self.rows)
            found.append(Goal(target, Sampled(p, shrunk * mean, 1 - shrunk, bias)))
        return found

    def _grams(self, bias: bool) -> list[tuple[Array, float]]:
        """The inner products of all rows with one another, over their number, for every group, and their `_mean`."""
        if not self._is_known:
            self._known = [p @ p.T / len(p) for p in self.patches]
        about = [centred(centred(gram, bias).T, bias) for gram in self._known]
        width = self.patches.shape[2]
        return [(one, _mean(one, width, float(np.trace(whole)))) for one, whole in zip(about, self._known, strict=True)]

    def bias(self, weight: Array) -> Array:
        """See `Statistics`."""
        shaped = weight.reshape(len(self.outputs), -1, self.patches.shape[2])
        return np.asarray((self.outputs - self.patches @ shaped.swapaxes(1, 2)).mean(axis=1).ravel())

    def loss(self, targets: Sequence[Array], *, bias: bool) -> float:
        """See `Statistics`."""
        shaped = (target.reshape(len(target), -1) for target in targets)
        missed = (y - p @ t.T for p, y, t in zip(self.patches, self.outputs, shaped, strict=True))
        return sum(float(np.square(centred(part, bias)).sum()) for part in missed) / max(self.rows, 1)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `Statistics`."""
        return {"patches": self.patches, "outputs": self.outputs}


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
        """See `Statistics`."""
        p, y = _finite(patches, outputs)
        self.rows += p.shape[1]
        self.patch += p.sum(axis=1)
        self.output += y.sum(axis=1)
        self.squared += p.swapaxes(1, 2) @ p
        self.crossed += y.swapaxes(1, 2) @ p
        return len(patches) - int(p.shape[1])

    def __add__(self, other: Moments) -> Moments:
        """See `Statistics`."""
        return Moments(
            self.rows + other.rows,
            self.patch + other.patch,
            self.output + other.output,
            self.squared + other.squared,
            self.crossed + other.crossed,
        )

    def targets(self, weight: Array, ridge: float, *, bias: bool) -> list[Array]:
        """See `Statistics`."""
        groups, out = self.output.shape
        shaped, found = weight.astype(np.float64).reshape(groups, out, -1), []
        for squared, crossed, whole, own in zip(*self._about(bias), self._whole(), shaped, strict=True):
            pull = ridge * _mean(squared, len(squared), whole)
            squared.flat[:: len(squared) + 1] += pull
            target = solved(squared, (crossed + pull * own).T).T
            found.append(target.reshape(out, weight.shape[1], -1))
        return found

    def goals(self, targets: Sequence[Array], *, bias: bool, shrink: float | None = None) -> list[Goal]:
        """See `Statistics`."""
        found = []
        for squared, whole, target in zip(self._about(bias)[0], self._whole(), targets, strict=True):
            width = len(squared)
            mean = _mean(squared, width, whole)
            shrunk = shrink or _shrinkage(mean, float(np.vdot(squared, squared)), width, self.rows)
            squared *= 1 - shrunk
            squared.flat[:: width + 1] += shrunk * mean
            found.append(Goal(target, Dense(squared)))
        return found

    def bias(self, weight: Array) -> Array:
        """See `Statistics`."""
        predicted = np.einsum("god,gd->go", weight.reshape(*self.output.shape, -1), self.patch)
        return np.asarray((self.output - predicted).ravel() / max(self.rows, 1))

    def loss(self, targets: Sequence[Array], *, bias: bool) -> float:
        """See `Statistics`."""
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

    def arrays(self) -> dict[str, NDArray[Any]]:
        """See `Statistics`."""
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


def restored(stage: Stage, arrays: Mapping[str, NDArray[Any]]) -> Statistics:
    """What is known of a site's rows, from its arrays.

    Raises:
        KeyError: some are missing.
        ValueError: they are none of the site: of other shapes, or not finite.
    """
    if "patches" in arrays:
        few, rows = Samples.none(stage), arrays["patches"].shape[1:2]
        patches, outputs = ((groups, *rows, width) for groups, _, width in (few.patches.shape, few.outputs.shape))
        return few + Samples(_checked(arrays["patches"], patches), _checked(arrays["outputs"], outputs))
    none, count = Moments.none(stage), arrays["rows"]
    if count.shape or count.dtype.kind not in "iu":
        raise ValueError("the number of rows is none")
    names = ("patch", "output", "squared", "crossed")
    return none + Moments(int(count), *(_checked(arrays[name], getattr(none, name).shape) for name in names))


def _checked(array: NDArray[Any], shape: tuple[int, ...]) -> Array:
    """An array that was kept, if it is of a shape, and of finite numbers."""
    if array.shape != shape or array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError("an array is of another shape or type, or not finite")
    return array


def _mean(moment: Array, width: int, whole: float) -> float:
    """The mean of the diagonal of a second moment of so many values, in which pulls are measured.

    Args:
        moment: about the means, if there is a bias to take those.
        width: how many values.
        whole: the trace before the means were taken off, below whose rounding there is nothing left.
    """
    return max(float(np.trace(moment)), ROUNDING * whole) / width or 1.0


def _shrinkage(mean: float, squared: float, width: int, rows: int) -> float:
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


def _finite(patches: Array, outputs: Array) -> tuple[Array, Array]:
    """The rows that are finite, (groups, rows, values) of each, in float64."""
    finite = np.asarray(np.isfinite(patches).all((1, 2)) & np.isfinite(outputs).all((1, 2)))
    p, y = (array[finite].astype(np.float64).swapaxes(0, 1) for array in (patches, outputs))
    return p, y


def ridge(one: Statistics, other: Statistics, weight: Array, *, bias: bool, among: Sequence[float] = RIDGES) -> float:
    """The ridge at which the best weight of one half of the samples predicts those of the other half best.

    Args:
        one: what is known of some samples.
        other: of others.
        weight: the trained weight.
        bias: as in `Statistics.targets`.
        among: from which it is chosen, from strong to weak.
    """

    def loss(value: float) -> float:
        pairs = ((one, other), (other, one))
        return sum(b.loss(a.targets(weight, value, bias=bias), bias=bias) for a, b in pairs)

    return best(among, loss)  # as weak as it helps, from the trained weight on


def agreement(one: Array, other: Array) -> float:
    """The part of what both halves of the data say together at which it predicts further data best; from 0 to 1.

    Of what one half says it is the part r at which that predicts the other best. What both say errs half as much, which
    makes 2 r / (1 + r) of it (the reliability of a test of twice the length: Spearman; Brown, British Journal of
    Psychology 3, 1910).
    """
    sizes = float(one @ one + other @ other)
    part = max(2 * float(one @ other) / sizes, 0.0) if sizes else 0.0
    return 2 * part / (1 + part)


def best(values: Sequence[Value], loss: Callable[[Value], float]) -> Value:
    """The one of least loss, of those up to the first that is worse than the one before it."""
    found, least = values[0], loss(values[0])
    for value in values[1:]:
        now = loss(value)
        if not now <= least:
            break
        found, least = (value, now) if now < least else (found, least)
    return found
