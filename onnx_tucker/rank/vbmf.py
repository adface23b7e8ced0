"""Ranks from variational Bayesian matrix factorisation of every unfolding, as it is or weakened towards full rank.

EVBMF as the rank of Tucker-2: Kim et al., ICLR 2016, section 3.1. Weakening: R = R0 - w (R0 - R_vbmf).
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx_tucker.factor import Method, Spectra
from onnx_tucker.factor.method import sizes_of
from onnx_tucker.factor.unfold import UNFOLDINGS
from onnx_tucker.rank.evbmf import evbmf_rank, observed_shape
from onnx_tucker.rank.policy import per_mode, rounded_up, unknown_spectrum
from onnx_tucker.types import Ranks, Stage

WHERE = {
    "in": " along the input channels",
    "out": " along the output channels",
    "matrix": "",
    "across": " between the kernel axes",
    "kernel": " along the kernel elements",
}
"""A mode in words."""


@dataclass(frozen=True)
class Vbmf:
    """`weakening` 1 takes EVBMF's rank, 0 the full one."""

    weakening: float = 1.0

    def ranks(self, spectra: Spectra, stage: Stage, method: Method) -> Ranks | str:
        """See `policy.Policy`."""
        if not method.spectral:
            return unknown_spectrum(method)
        sizes = sizes_of(stage)
        # A weight without structure along one of its modes is left alone, whatever the method's modes are.
        modes = ("in", "out") if stage.window.volume > 1 else ("matrix",)
        found = {}
        for mode in dict.fromkeys((*modes, *method.modes)):
            full = sizes[mode]
            found[mode] = round(full - self.weakening * (full - _rank(spectra, mode, full)))
            if not found[mode]:
                return f"VBMF rank 0: no structure above the noise{WHERE[mode]}"
        return per_mode(stage, method, lambda mode, full: found[mode])

    def aligned(self, stage: Stage, method: Method, ranks: Ranks, block: int) -> list[Ranks]:
        """See `policy.Policy`."""
        return [rounded_up(stage, method, ranks, block)]


def _rank(spectra: Spectra, mode: str, full: int) -> int:
    """The largest rank of any group."""
    if full == 1:
        return 1  # nothing to decide, and no second row to tell structure from noise by
    by_group = zip(spectra.of_parts(mode), spectra.parts, strict=True)
    return max(evbmf_rank(values, *observed_shape(UNFOLDINGS[mode](part))) for values, part in by_group)
