"""Ranks given as numbers: one for every mode, or a pair for the input and the output side; and full rank."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_tucker.factor import Method, Spectra
from onnx_tucker.rank.policy import per_mode
from onnx_tucker.types import Ranks, Stage


@dataclass(frozen=True)
class Fixed:
    """`inp` for the input mode, `out` for the output mode or the kernel, the smaller of both where there is one rank.

    Clipped to the size.
    """

    inp: int
    out: int

    def ranks(self, spectra: Spectra, stage: Stage, method: Method) -> Ranks | str:
        """See `policy.Policy`."""
        wanted = dict(zip(method.modes, self.wanted(method), strict=True))
        return per_mode(stage, method, lambda mode, full: wanted[mode])

    def wanted(self, method: Method) -> Ranks:
        """The ranks as they were given, before clipping."""
        given = {"in": self.inp, "out": self.out, "kernel": self.out}
        return tuple(given.get(mode, min(self.inp, self.out)) for mode in method.modes)

    def aligned(self, stage: Stage, method: Method, ranks: Ranks, block: int) -> list[Ranks]:
        """See `policy.Policy`; ranks that are given are meant."""
        return []


@dataclass(frozen=True)
class Full:
    """No truncation.

    Attributes:
        reason: why there is none.
    """

    reason: str = "full rank, nothing to truncate"

    def ranks(self, spectra: Spectra, stage: Stage, method: Method) -> Ranks | str:
        """See `policy.Policy`."""
        return self.reason

    def aligned(self, stage: Stage, method: Method, ranks: Ranks, block: int) -> list[Ranks]:
        """See `policy.Policy`; ranks that are given are meant."""
        return []
