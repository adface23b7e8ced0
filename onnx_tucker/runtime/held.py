"""Values that take long to compute, held in memory as far as there is room for them."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Held(Generic[Value]):
    """Values by key; those that would take more than a number of bytes together are not held.

    Args:
        most: that number.
    """

    def __init__(self, most: int) -> None:
        self._values: dict[Hashable, Value] = {}
        self._left = most

    def get(self, key: Hashable) -> Value | None:
        """What is held under a key; None for nothing."""
        return self._values.get(key)

    def fits(self, size: int) -> bool:
        """Whether there is room for a value of so many bytes."""
        return size <= self._left

    def keep(self, key: Hashable, value: Value, size: int) -> None:
        """Holds a value, if there is room.

        Args:
            key: not held yet.
            value: what is held.
            size: its bytes.
        """
        if self.fits(size):
            self._values[key] = value
            self._left -= size
