"""What of the original's cost is counted: how much of it curves can change, and which budgets that can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnx_tucker.errors import PromiseError
from onnx_tucker.job import Job
from onnx_tucker.rank.budget import Budget
from onnx_tucker.report import numbers
from onnx_tucker.search.allocation import reach
from onnx_tucker.search.curve import Curve
from onnx_tucker.search.curves import cost_as_is

SPOKEN_OF = 0.01
"""The share of what cannot be factorised from which on a refused budget says so."""

NEARLY = 1.02
"""How far off the estimate of all bytes may be."""
NOTED = 112
"""Bytes of what a model says of its chains, without their names."""


class Counted:
    """Costs that are counted, and not measured.

    Args:
        job: the run.
        quantities: of "flops", "params" and "bytes".
        curves: of all nodes that can be factorised.
    """

    def __init__(self, job: Job, quantities: Sequence[str], curves: Sequence[Curve]) -> None:
        self._job, self._curves = job, curves
        self._total = {quantity: _total(job, quantity) for quantity in quantities}
        self._rest = {q: total - sum(c.points[0].costs[q] for c in curves) for q, total in self._total.items()}

    def limits(self, shares: Mapping[str, float]) -> dict[str, float]:
        """What all curves together may cost for shares of the original's, of what is counted.

        Bytes are estimated: where nearly enough can be saved, what the cheapest model has is found out by making it.
        """
        limits = {q: s * self._total[q] - self._rest[q] - _noted(q, s) for q, s in shares.items() if q != "time"}
        if "bytes" in limits and self.least("bytes") <= shares["bytes"] * NEARLY:
            limits["bytes"] = max(limits["bytes"], reach(self._curves, "bytes")[0])
        return limits

    def least(self, quantity: str) -> float:
        """The share of the original's that remains at least; of time, which is not counted, none is known."""
        if quantity == "time":
            return 0.0
        least = self._rest[quantity] + reach(self._curves, quantity)[0]
        return min(1.0, (least + _noted(quantity, 0.0)) / (self._total[quantity] or 1.0))

    def unreached(self, shares: Mapping[str, float]) -> PromiseError:
        """Why budgets of such shares cannot be held, in words."""
        for quantity, share in shares.items():
            reached = self.least(quantity)
            if reached > share:
                budget = Budget(quantity, share)
                return PromiseError(
                    f"The budget {budget} cannot be reached: at least the share {numbers.least(reached)} would remain"
                    f"{self._left_alone(quantity)}."
                )
        together = " and ".join(str(Budget(*pair)) for pair in shares.items())
        return PromiseError(f"The budgets {together} cannot be reached together.")

    def _left_alone(self, quantity: str) -> str:
        """Which nodes that cannot be factorised cost most, in words; empty where that is not known, or little."""
        if quantity == "bytes":
            return ""
        costs = {f: cost_as_is(self._job, quantity, [f]) for f in self._job.found if not f.is_site}
        share = sum(costs.values()) / (self._total[quantity] or 1.0)
        if share < SPOKEN_OF:
            return ""
        most = max(costs, key=costs.__getitem__)
        return f", {share:.3g} in nodes that cannot be factorised, of which {most.label} costs most: {most.skipped}"


def _noted(quantity: str, share: float) -> int:
    """What a model with a share of the original's cost takes for what it says of its chains."""
    return NOTED if quantity == "bytes" and share < 1 else 0


def _total(job: Job, quantity: str) -> float:
    return float(job.size) if quantity == "bytes" else sum(cost_as_is(job, quantity, [found]) for found in job.found)
