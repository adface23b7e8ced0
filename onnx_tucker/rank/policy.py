"""The interface of a rank policy, and the loop over modes that most of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from onnx_tucker.factor import Method, Spectra
from onnx_tucker.types import Ranks, Stage


class Policy(Protocol):
    """Chooses the ranks of one method on one weight."""

    def ranks(self, spectra: Spectra, stage: Stage, method: Method) -> Ranks | str:
        """Ranks in the order of `method.modes`, or why there are none."""
        ...

    def aligned(self, stage: Stage, method: Method, ranks: Ranks, block: int) -> list[Ranks]:
        """Ranks beside those chosen that keep the policy's promise too, and are multiples of `block` or full."""
        ...


def unknown_spectrum(method: Method) -> str:
    """Why a policy that looks at singular values has no ranks for a method; empty where it has."""
    return "" if method.spectral else f"{method.name} has no singular values to take ranks from; give a rank or a ratio"


def rounded_up(stage: Stage, method: Method, ranks: Ranks, block: int) -> Ranks:
    """The next multiples of `block`, or full ranks."""
    sizes = zip(ranks, method.dimensions(stage), strict=True)
    return tuple(min(-(-rank // block) * block, full) for rank, full in sizes)


def per_mode(stage: Stage, method: Method, rank: Callable[[str, int], int]) -> Ranks:
    """Ranks from a function of mode name and full rank, clipped to between 1 and the full rank."""
    return tuple(
        min(max(rank(mode, full), 1), full) for mode, full in zip(method.modes, method.dimensions(stage), strict=True)
    )


def share(text: str, what: str) -> float:
    """Parses a number from 0 to 1.

    Raises:
        ValueError: it is none; the text says what was expected.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{what} takes a number from 0 to 1, not {text!r}")
    return value
