"""Arrays as one vector, for what descends over all of their values at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnx_tucker.types import Array


class Scaled:
    """Values of arrays in units of what each array has at the start, so that none moves much further than others.

    Args:
        parts: the arrays.

    Attributes:
        start: their values.
    """

    def __init__(self, parts: Sequence[Array]) -> None:
        units = [math.sqrt(float(np.square(part).mean())) or 1.0 for part in parts]
        self._shapes = [part.shape for part in parts]
        self._units = joined([np.full(part.size, unit) for part, unit in zip(parts, units, strict=True)])
        self.start: Array = joined(parts) / self._units

    def parts(self, values: Array) -> list[Array]:
        """The arrays with these values."""
        return split(values * self._units, self._shapes)

    def derivatives(self, parts: Sequence[Array]) -> Array:
        """Of a function with respect to the values, from those with respect to the arrays."""
        return joined(parts) * self._units


def split(values: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """One vector as arrays of some shapes."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    return [part.reshape(shape) for part, shape in zip(np.split(values, ends), shapes, strict=True)]


def joined(parts: Sequence[Array]) -> Array:
    """Arrays as one vector."""
    return np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0)
