"""Ranks that were chosen elsewhere for one method on one node."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_tucker.factor import Method, Spectra
from onnx_tucker.types import Ranks, Stage


@dataclass(frozen=True)
class Given:
    """One rank for each mode of the method that they were chosen for."""

    chosen: Ranks

    def ranks(self, spectra: Spectra, stage: Stage, method: Method) -> Ranks | str:
        """See `policy.Policy`."""
        return self.chosen

    def aligned(self, stage: Stage, method: Method, ranks: Ranks, block: int) -> list[Ranks]:
        """See `policy.Policy`; ranks that are given are meant."""
        return []
