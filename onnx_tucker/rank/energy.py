"""The smallest rank of every mode that keeps a share of its squared singular values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_tucker.factor import Method, Spectra
from onnx_tucker.rank.policy import per_mode, rounded_up, unknown_spectrum
from onnx_tucker.types import Ranks, Stage


@dataclass(frozen=True)
class Energy:
    """Keeps the share `kept` of the energy of each mode; 1 is full rank."""

    kept: float

    def ranks(self, spectra: Spectra, stage: Stage, method: Method) -> Ranks | str:
        """See `policy.Policy`."""

        def rank(mode: str, full: int) -> int:
            if self.kept == 1:
                return full
            cumulated = np.cumsum(np.square(spectra.of(mode)))
            return int(np.searchsorted(cumulated, self.kept * cumulated[-1])) + 1

        return unknown_spectrum(method) or per_mode(stage, method, rank)

    def aligned(self, stage: Stage, method: Method, ranks: Ranks, block: int) -> list[Ranks]:
        """See `policy.Policy`."""
        return [rounded_up(stage, method, ranks, block)]
