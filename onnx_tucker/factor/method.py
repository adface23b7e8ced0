"""The interface of a decomposition method: which ranks it has, the stages they give, and the factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnx_tucker.factor.unfold import Spectra
from onnx_tucker.types import Array, Chain, Ranks, Stage


@dataclass(frozen=True)
class Method:
    """A way to write one linear layer as a chain of smaller ones.

    Attributes:
        name: as in plans, ranks files and reports.
        modes: what the ranks belong to: "in", "out", or "matrix" for the one rank of a matrix.
        on_matrix: whether it is tried on a matrix (a Gemm or a pointwise convolution) unless asked for by name.
        on_kernel: whether it applies to weights with more than one kernel element.
        stages: the chain that a site's only stage becomes at given ranks, with as many groups.
        factors: weights of those stages, from one group's float64 weight (out, in, *kernel).
        error_bound: upper bound of the relative Frobenius error at given ranks, from the spectra alone.
    """

    name: str
    modes: tuple[str, ...]
    on_matrix: bool
    on_kernel: bool
    stages: Callable[[Stage, Ranks], tuple[Stage, ...]]
    factors: Callable[[Array, Ranks], tuple[Array, ...]]
    error_bound: Callable[[Spectra, Ranks], float]

    def applies(self, stage: Stage, by_name: bool = False) -> bool:
        """Whether the method can factorise `stage`; with `by_name` also where a better one exists."""
        return self.on_kernel if stage.window.volume > 1 else self.on_matrix or by_name

    def dimensions(self, stage: Stage) -> Ranks:
        """The full rank of every mode."""
        sizes = {"in": stage.inp, "out": stage.out, "matrix": min(stage.inp, stage.out)}
        return tuple(sizes[mode] for mode in self.modes)

    def chain(self, weight: Array, stage: Stage, ranks: Ranks) -> Chain:
        """The chain of `stage` at `ranks`, each group factorised by itself, factors in float64."""
        by_group = [self.factors(part, ranks) for part in np.split(weight.astype(np.float64), stage.groups)]
        return Chain(self.stages(stage, ranks), tuple(np.concatenate(parts) for parts in zip(*by_group, strict=True)))
