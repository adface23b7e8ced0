"""What is seen of a layer's outputs from behind it: not all of them have to be right.

A rectifier takes what is below its bound as the bound, and max pooling takes the largest value of a window. Outputs
that they turn into the wanted values are as good as the wanted outputs themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from onnx_tucker.types import Array


@dataclass(frozen=True)
class Sight:
    """Bounds, and the largest of a window.

    Attributes:
        low: values below are seen as this.
        high: values above are seen as this.
        window: the lengths of windows side by side of which the largest value is seen; empty where each value is.
        sigmoid: whether 1 / (1 + exp(-v)) is seen of a value v.
    """

    low: float = -math.inf
    high: float = math.inf
    window: tuple[int, ...] = ()
    sigmoid: bool = False

    @property
    def size(self) -> int:
        """Values of a window."""
        return math.prod(self.window)

    def of(self, outputs: Array) -> Array:
        """What is seen, (..., windows, out), of outputs (..., windows, values of a window, out)."""
        values = np.clip(outputs.max(axis=-2), self.low, self.high)
        return np.asarray(scipy.special.expit(values) if self.sigmoid else values)

    def derivative(self, outputs: Array, change: Array) -> Array:
        """That of a function with respect to the outputs, from what it is with respect to what is seen of them."""
        if self.sigmoid:
            seen = self.of(outputs)
            change = change * seen * (1 - seen)
        if outputs.shape[-2] == 1:
            return np.asarray(np.where((outputs > self.low) & (outputs < self.high), change[..., None, :], 0))
        first = outputs.argmax(axis=-2)[..., None, :]
        largest = np.take_along_axis(outputs, first, -2)
        found = np.zeros_like(outputs)
        through = (largest > self.low) & (largest < self.high)
        np.put_along_axis(found, first, np.where(through, change[..., None, :], 0), -2)
        return found
