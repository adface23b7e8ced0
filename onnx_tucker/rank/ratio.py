"""Ranks, in proportion to the sizes of the modes, at which a chain has a given share of the weight's parameters."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass

from onnx_tucker.cost import weight_count
from onnx_tucker.factor import Method, Spectra
from onnx_tucker.rank.policy import per_mode
from onnx_tucker.types import Ranks, Stage


@dataclass(frozen=True)
class Ratio:
    """The largest ranks with at most the share `kept` of the weight's parameters."""

    kept: float

    def ranks(self, spectra: Spectra, stage: Stage, method: Method) -> Ranks | str:
        """See `policy.Policy`."""
        limit = self.kept * math.prod(stage.shape)
        # Every point at which one of the ranks steps up; the parameters grow along them.
        steps = sorted({i / full for full in method.dimensions(stage) for i in range(1, full + 1)})
        within = bisect_right(steps, limit, key=lambda step: _params(method, stage, _at(method, stage, step)))
        if not within:
            return f"even rank 1 has more than {self.kept:g} of the weights"
        return _at(method, stage, steps[within - 1])

    def aligned(self, stage: Stage, method: Method, ranks: Ranks, block: int) -> list[Ranks]:
        """See `policy.Policy`."""
        found = []
        limit, sizes = self.kept * math.prod(stage.shape), method.dimensions(stage)
        for first in range(len(ranks)):
            near = [rank // block * block if mode == first else 1 for mode, rank in enumerate(ranks)]
            for mode in (m for m in range(len(ranks)) if m != first):
                steps = [
                    step
                    for step in (*range(block, sizes[mode], block), sizes[mode])
                    if _params(method, stage, _with(near, mode, step)) <= limit
                ]
                near[mode] = max(steps, default=0)
            if min(near):
                found.append(tuple(near))
        return found


def _with(ranks: list[int], mode: int, rank: int) -> Ranks:
    return tuple(rank if i == mode else other for i, other in enumerate(ranks))


def _at(method: Method, stage: Stage, fraction: float) -> Ranks:
    return per_mode(stage, method, lambda mode, full: math.floor(fraction * full + 1e-9))


def _params(method: Method, stage: Stage, ranks: Ranks) -> int:
    return weight_count(method.stages(stage, ranks))
