"""The interface of a decomposition method: which ranks it has, the stages they give, and the factors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_tucker.factor.unfold import UNFOLDINGS, Spectra, lost_share
from onnx_tucker.types import Array, Chain, Ranks, Stage


@dataclass(frozen=True)
class Method:
    """A way to write one linear layer as a chain of smaller ones.

    Attributes:
        name: as in plans, ranks files and reports.
        modes: what the ranks belong to; see `sizes_of`.
        on_matrix: whether it applies to a matrix (a Gemm or a pointwise convolution).
        on_kernel: whether it applies to weights with more than one kernel element.
        axes: of a method that takes the axes apart, how many with more than one element there have to be; 0 for others.
        asked: where it is tried only if it is asked for by name: "" nowhere, on a "matrix", or "always".
        stages: the chain that a site's only stage becomes at given ranks, with as many groups or a multiple of them.
        factors: weights of those stages, from one group's float64 weight (out, in, *kernel).
        terms: the axes of each stage's weight in Einstein's notation, whose product is the weight: "o" and "i" are the
            output and input channels of a group, "k" all kernel elements, "t" the first kernel axis and "l" the later
            ones; "i" is in the first term only, "o" in the last.
        letters: the axes that the ranks are the sizes of.
    """

    name: str
    modes: tuple[str, ...]
    on_matrix: bool
    on_kernel: bool
    stages: Callable[[Stage, Ranks], tuple[Stage, ...]]
    factors: Callable[[Array, Ranks], tuple[Array, ...]]
    terms: tuple[str, ...]
    letters: str
    axes: int = 0
    asked: str = ""

    @property
    def spectral(self) -> bool:
        """Whether each of its modes has singular values to take a rank from."""
        return all(mode in UNFOLDINGS for mode in self.modes)

    def error_bound(self, spectra: Spectra, ranks: Ranks) -> float:
        """Upper bound of the relative Frobenius error at given ranks, from the spectra alone.

        The root of the sum of what the modes lose (De Lathauwer, De Moor and Vandewalle, "A Multilinear Singular Value
        Decomposition", 2000, property 10), which of one mode is the error itself (Eckart and Young 1936). Where modes
        have no singular values, nothing is known but that least squares are no worse than no products at all.
        """
        if not self.spectral:
            return 1.0
        return math.sqrt(sum(lost_share(spectra.of(mode), r) for mode, r in zip(self.modes, ranks, strict=True)))

    @property
    def ends_in_basis(self) -> bool:
        """Whether it ends with a basis of the output, and one factor before that has a coordinate for each vector."""
        basis = self.terms[-1][1:]
        return len(basis) == 1 and sum(basis in term for term in self.terms) == 2

    @property
    def closed(self) -> bool:
        """Whether the factors that do least harm to the outputs are known in closed form, and their error with them."""
        return len(self.terms) == 1 + self.ends_in_basis

    def applies(self, stage: Stage, by_name: bool = False) -> bool:
        """Whether the method can factorise `stage`, and unless it is asked for `by_name`, is tried on it."""
        matrix = stage.window.volume == 1
        if not by_name and (self.asked == "always" or (self.asked == "matrix" and matrix)):
            return False
        if sum(size > 1 for size in stage.window.kernel) < self.axes:
            return False
        if self.axes and stage.window.output_shape:
            return False  # which is that of all axes together
        return self.on_matrix if matrix else self.on_kernel

    def dimensions(self, stage: Stage) -> Ranks:
        """The full rank of every mode."""
        sizes = sizes_of(stage)
        return tuple(sizes[mode] for mode in self.modes)

    def chain(self, weight: Array, stage: Stage, ranks: Ranks) -> Chain:
        """The chain of `stage` at `ranks`, each group factorised by itself, factors in float64."""
        by_group = [self.factors(part, ranks) for part in np.split(weight.astype(np.float64), stage.groups)]
        return Chain(self.stages(stage, ranks), tuple(np.concatenate(parts) for parts in zip(*by_group, strict=True)))


def sizes_of(stage: Stage) -> dict[str, int]:
    """The full rank of each mode by its name.

    "in" and "out" are the channels, "matrix" the one rank of a matrix, "kernel" the kernel elements, "across" the cut
    between the first kernel axis and the others, and "components" the outer products of which there are always enough.
    """
    out, inp, volume = stage.out, stage.inp, stage.window.volume
    first = stage.window.kernel[0] if stage.window.kernel else 1
    return {
        "in": inp,
        "out": out,
        "matrix": min(inp, out),
        "kernel": min(volume, out * inp),
        "across": min(inp * volume // first, first * out),
        "components": min(inp * volume, out * volume, out * inp),
    }
