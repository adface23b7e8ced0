"""What is seen of a layer's outputs from behind it: not all of them have to be right.

A rectifier takes what is below its bound as the bound, other activations squeeze what is far off, and max pooling takes
the largest value of a window. Outputs that they turn into the wanted values are as good as the wanted outputs
themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnx_tucker.types import Array

REACH, CELLS = 32.0, 8192
"""How far on both sides of zero a curve is known, and in how many pieces."""
GRID = np.linspace(-REACH, REACH, CELLS + 1)
"""The places at which a curve is known."""
LEVEL = 1e-2
"""Share of the steepest slope that is rounding, where slopes of a straight line differ or a rising curve falls."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A function of single values, straight between the places of a grid and beyond its ends.

    Attributes:
        values: at the places of `GRID`.
    """

    values: Array

    @cached_property
    def slopes(self) -> Array:
        """Of the pieces."""
        return np.diff(self.values) * (CELLS / (2 * REACH))

    @property
    def steepest(self) -> float:
        """The largest slope, be it up or down."""
        return float(np.abs(self.slopes).max())

    @property
    def rising(self) -> bool:
        """Whether larger values never give smaller ones."""
        return float(self.slopes.min()) >= -LEVEL * self.steepest

    @property
    def straight(self) -> bool:
        """Whether it is one straight line."""
        return float(np.ptp(self.slopes)) <= LEVEL * self.steepest

    def of(self, values: Array) -> Array:
        """The function of each value."""
        cell = self._cells(values)
        slopes, starts, places = (a.astype(values.dtype, copy=False) for a in (self.slopes, self.values, GRID))
        return np.asarray(starts[cell] + slopes[cell] * (values - places[cell]))

    def slope(self, values: Array) -> Array:
        """The derivative at each value."""
        return np.asarray(self.slopes.astype(values.dtype, copy=False)[self._cells(values)])

    def _cells(self, values: Array) -> Array:
        places = (values + REACH) * (CELLS / (2 * REACH))
        return np.asarray(
            np.fmax(np.fmin(places, CELLS - 1), 0).astype(np.int32)
        )  # of NaN the first, which is not used


@dataclass(frozen=True, eq=False)
class Affine:
    """What becomes of each channel that is normalised, or scaled and shifted by constants.

    Attributes:
        scale: by which it is multiplied, (groups * out,).
        shift: what is added then.
    """

    scale: Array
    shift: Array

    def of(self, outputs: Array) -> Array:
        """Outputs (groups, rows, out), normalised."""
        return self.scaled(outputs) + self._by_group(self.shift, outputs)

    def scaled(self, outputs: Array) -> Array:
        """Outputs, or what a function changes with them, multiplied."""
        return outputs * self._by_group(self.scale, outputs)

    def behind(self, before: Affine) -> Affine:
        """This of what another one gives."""
        return Affine(self.scale * before.scale, self.scale * before.shift + self.shift)

    @staticmethod
    def _by_group(channels: Array, outputs: Array) -> Array:
        return channels.reshape(len(outputs), 1, -1).astype(outputs.dtype, copy=False)


@dataclass(frozen=True)
class Sight:
    """Bounds, the largest of a window, and a curve, of outputs that are normalised before.

    Attributes:
        low: values below are seen as this.
        high: values above are seen as this.
        window: the lengths of windows side by side of which the largest value is seen; empty where each value is.
        curve: what becomes of the value that is left; None for itself.
        affine: how outputs are normalised; None for not at all. All methods are of what it gives.
    """

    low: float = -math.inf
    high: float = math.inf
    window: tuple[int, ...] = ()
    curve: Curve | None = None
    affine: Affine | None = None

    @property
    def size(self) -> int:
        """Values of a window."""
        return math.prod(self.window)

    @property
    def whole(self) -> bool:
        """Whether all outputs are seen as they are: without bounds or windows, and with a straight curve or none."""
        bounded = math.isfinite(self.low) or math.isfinite(self.high) or bool(self.window)
        return not bounded and (self.curve is None or self.curve.straight)

    def normalised(self, outputs: Array) -> Array:
        """Outputs (groups, rows, out) as all else here takes them."""
        return outputs if self.affine is None else self.affine.of(outputs)

    def blind(self, curve: Curve) -> bool:
        """Whether a curve gives the same for all values within the bounds."""
        inside = (GRID[1:] > self.low) & (GRID[:-1] < self.high)
        return not curve.slopes[inside].any()

    def of(self, outputs: Array) -> Array:
        """What is seen, (..., windows, out), of outputs (..., windows, values of a window, out)."""
        values = np.clip(outputs.max(axis=-2), self.low, self.high)
        return values if self.curve is None else self.curve.of(values)

    def derivative(self, outputs: Array, change: Array) -> Array:
        """That of a function with respect to the outputs, from what it is with respect to what is seen of them."""
        if self.curve is not None:
            change = change * self.curve.slope(outputs.max(axis=-2))
        if outputs.shape[-2] == 1:
            return np.asarray(np.where((outputs > self.low) & (outputs < self.high), change[..., None, :], 0))
        first = outputs.argmax(axis=-2)[..., None, :]
        largest = np.take_along_axis(outputs, first, -2)
        found = np.zeros_like(outputs)
        through = (largest > self.low) & (largest < self.high)
        np.put_along_axis(found, first, np.where(through, change[..., None, :], 0), -2)
        return found
