"""What options may be: kinds and ranges of their values, and how a message calls them."""

from __future__ import annotations

from numbers import Integral, Real
from pathlib import Path
from typing import Any

from onnx_tucker.errors import UsageError

PathLike = str | Path


def flag(name: str) -> str:
    """An option as the command line has it."""
    return f"--{name.replace('_', '-')}"


def require_range(name: str, value: Any, least: float, most: float, *, whole: bool) -> None:
    """Makes sure that a number is within what makes sense.

    Args:
        name: of the option.
        value: the number.
        least: what it is at least.
        most: what it is at most.
        whole: whether it has no fraction.

    Raises:
        UsageError: it is not, or is no such number.
    """
    is_number = isinstance(value, Integral if whole else Real)
    if not is_number or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise UsageError(f"{flag(name)} is {kind} from {least:g} to {most:g}.")


def require_kind(name: str, value: Any, kinds: tuple[type, ...], what: str) -> None:
    """Makes sure that a value is of one of some types, or None if that is among them.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, kinds):
        raise UsageError(f"{flag(name)} is {what}, not {value!r}.")
