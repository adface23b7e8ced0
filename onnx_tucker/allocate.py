"""Ranks for budgets: how much each node may lose so that the model loses least.

One price of cost, the same for all nodes, picks a point on the curve of each (`rank.lagrange`). How errors of nodes add
up to one of the model is not known. With data, allocations by several laws are carried out roughly, each changed a bit
as long as that brings the model closer to the original; with few samples also one that leaves the data out of it.

What a whole model takes is not the sum of what its layers take alone. So it is measured, with noise for weights, and
the limit of the sum is moved until the model is within its budget.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_tucker import calibrate
from onnx_tucker.curves import Curve, Point, Wanted, curves, whole
from onnx_tucker.errors import PromiseError
from onnx_tucker.factor import METHODS
from onnx_tucker.factorise import Factorised, factorise
from onnx_tucker.forms import DIRECT
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.menu import sharing
from onnx_tucker.rank import Rule, Rules
from onnx_tucker.rank.budget import Budget
from onnx_tucker.rank.fixed import Full
from onnx_tucker.rank.given import Given
from onnx_tucker.rank.lagrange import choose
from onnx_tucker.timed import planned, timed, whole_model
from onnx_tucker.trial import error
from onnx_tucker.tuning import Tuner, alike, promising
from onnx_tucker.types import Candidate, Skip

logger = logging.getLogger(__name__)

LEAST = 1e-3
"""The least share of what is lossless that a path leads to."""
MOST = 0.999
"""The largest share of a node's output that counts as lost."""
AIMS, AIMED = 6, 0.98
"""How often the limit of the layers' time is moved, and the share of a budget of time that is aimed at."""
CLOSE = 0.01
"""A move of that limit, relative to the original's time, that is not worth another measurement."""

Allocation = Sequence[tuple[Curve, Point]]
"""A point of the curve of each group of nodes."""


@dataclass(frozen=True)
class Law:
    """How errors of nodes may add up to one of the model.

    Attributes:
        tilt: how far the last node counts more than the first, as a power of e: what is lost early, the nodes behind
            make up for.
        power: how far it counts what a node's error alone does to the model's outputs.
        logarithmic: whether a chain of layers that each keep the share 1 - e of the signal keeps the product of those;
            else squared errors are summed.
    """

    tilt: float = 0.0
    power: float = 0.0
    logarithmic: bool = False

    def of(self, curves: Sequence[Curve]) -> list[Curve]:
        """Curves whose weighted errors it takes to add up."""
        last = max(len(curves) - 1, 1)
        return [
            replace(
                curve,
                points=[replace(point, error=self._error(point.error)) for point in curve.points],
                weight=math.exp(self.tilt * i / last) * curve.weight**self.power,
            )
            for i, curve in enumerate(curves)
        ]

    def _error(self, error: float) -> float:
        return -math.log1p(-min(error, MOST)) if self.logarithmic else error


CHANGES = (
    partial(replace, tilt=1.0),
    partial(replace, tilt=2.0),
    partial(replace, power=0.5),
    partial(replace, power=1.0),
    partial(replace, logarithmic=True),
)
"""What is tried of the law, each on top of what has helped so far."""


class Allocator:
    """Finds the method and ranks of every node for budgets.

    Args:
        job: the run.
        quantities: what budgets are of.

    Raises:
        PromiseError: times count, but the model cannot be timed.
    """

    def __init__(self, job: Job, quantities: Sequence[str]) -> None:
        self._job = job
        self._counted = [quantity for quantity in quantities if quantity != "time"]
        self._tuner = Tuner(job) if "time" in quantities else None
        groups = [group for group in sharing(job).values() if not isinstance(group[0].reading.found, Skip)]
        self._found = list(self._curves(groups, blind=False))
        self._blind = list(self._curves(groups, blind=True)) if calibrate.few(job) else None
        self._law: Sequence[Curve] | None = None if calibrate.usable(job) else Law().of(self._found)
        self._total = {quantity: _total(job, quantity) for quantity in self._counted}
        self._rest = {q: total - sum(c.points[0].costs[q] for c in self._found) for q, total in self._total.items()}
        if self._tuner is not None and self._share_of_time([(curve, curve.points[0]) for curve in self._found]) is None:
            raise PromiseError("A budget of time cannot be held, because the model cannot be timed; see above.")

    def _curves(self, groups: Sequence[list[Found]], *, blind: bool) -> Iterator[Curve]:
        wanted = Wanted([*self._counted, "flops"] if self._tuner else self._counted, aligned=self._tuner is not None)
        made = []
        for i, curve in enumerate(curves(self._job, wanted, groups, blind=blind)):
            self._job.progress("measuring errors of nodes", i + 1, len(groups))
            made.append(curve)
        if self._tuner is None:
            yield from made
            return
        for i, curve in enumerate(made):
            self._job.progress("timing points", i + 1, len(made))
            yield timed(self._job, self._tuner, curve, self._counted)

    def allocation(self, budgets: Sequence[Budget]) -> Allocation:
        """A point for every group of nodes, such that the budgets are held and the model loses least.

        Args:
            budgets: of the quantities.

        Raises:
            PromiseError: they cannot be reached.
        """
        shares = {budget.of: budget.share for budget in budgets}
        if self._law is None:
            self._within(Law().of(self._found), shares)  # from then on it is known what the layers may take
            self._law = self._best(self._limits(shares))
        return self._within(self._law, shares)

    def path(self, quantity: str, number: int) -> list[Allocation]:
        """Different allocations from the one that loses nothing to the cheapest, by estimate of what they cost.

        Args:
            quantity: what they cost.
            number: of shares of it, evenly by their logarithms; they may lead to fewer allocations.
        """
        most, least = self._share(quantity, [curve.points[0] for curve in self._found]), self.least(quantity)
        if most <= 0:  # nothing is known to cost anything
            return [[(curve, curve.points[0]) for curve in self._found]]
        least = max(least, most * LEAST)
        if self._law is None:
            self._law = self._best(self._limits({quantity: math.sqrt(most * least)}))
        ways: dict[object, Allocation] = {}
        for share in np.geomspace(most, least, number):
            limit = float(share) * self._total[quantity] - self._rest[quantity]
            allocation = _chosen(self._law, {quantity: limit * (1 + 1e-9)})
            if allocation is not None:
                ways.setdefault(_recipes(allocation), allocation)
        return list(ways.values())

    def least(self, quantity: str) -> float:
        """The share of a quantity that is left of the original at the cheapest points; of time by estimate."""
        return self._share(quantity, [min(c.points, key=lambda p: p.costs[quantity]) for c in self._found])

    def _share(self, quantity: str, points: Sequence[Point]) -> float:
        """The share of a quantity that is left of the original with points taken, by estimate."""
        cost = sum(point.costs[quantity] for point in points)
        return (self._rest[quantity] + cost) / self._total[quantity] if self._total[quantity] else 0.0

    def roughly(self, allocation: Allocation) -> Factorised:
        """The model with an allocation, fitted roughly, or where there are few samples, made from its weights."""
        return self._tried(allocation)[1]

    def _within(self, law: Sequence[Curve], shares: Mapping[str, float]) -> Allocation:
        """The allocation by a law that holds all budgets, that of time by measurement."""
        if self._tuner is None:
            chosen = _chosen(law, self._limits(shares))
            if chosen is None:
                raise self._unreached(shares)
            return chosen
        fastest, found, longest = math.inf, None, -math.inf
        least = sum(min(point.costs["time"] for point in curve.points) for curve in law)
        for _ in range(AIMS):
            limits = self._limits(shares)
            limits["time"] = max(limits["time"], least)
            chosen = _chosen(law, limits)
            if chosen is None:
                raise self._unreached({q: share for q, share in shares.items() if q != "time"})
            share = self._share_of_time(chosen) or 0.0
            fastest, used = min(fastest, share), sum(point.costs["time"] for _, point in chosen)
            if share <= shares["time"] and used > longest:
                found, longest = chosen, used
            moved = self._limits(shares)["time"] - limits["time"]
            if abs(moved) < CLOSE * self._total["time"] if found else limits["time"] <= least and moved < 0:
                break
        if found is None:
            raise PromiseError(
                f"The budget time:{shares['time']:g} cannot be reached: the fastest model found takes the share "
                f"{fastest:.3g}."
            )
        return found

    def _limits(self, shares: Mapping[str, float]) -> dict[str, float]:
        """What all curves together may cost."""
        aimed = {q: share * (AIMED if q == "time" and share < 1 else 1.0) for q, share in shares.items()}
        return {q: share * self._total[q] - self._rest[q] for q, share in aimed.items()}

    def _share_of_time(self, allocation: Allocation) -> float | None:
        """The share of the original's time that a model takes, from which what is not in the curves follows."""
        assert self._tuner is not None
        timings = whole_model(self._job, self._tuner, allocation)
        if not timings:
            return None
        share, used = 1 / timings[1].speedup, sum(point.costs["time"] for _, point in allocation)
        self._total.setdefault("time", timings[0].ms)
        self._rest["time"] = share * self._total["time"] - used
        logger.info("layers of %.3g ms alone: the whole model takes the share %.3g", used, share)
        return share

    def _unreached(self, shares: Mapping[str, float]) -> PromiseError:
        for quantity, share in shares.items():
            least = self.least(quantity)
            if least > share:
                budget = Budget(quantity, share)
                return PromiseError(
                    f"The budget {budget} cannot be reached: at least the share {least:.3g} would remain."
                )
        together = " and ".join(str(Budget(*pair)) for pair in shares.items())
        return PromiseError(f"The budgets {together} cannot be reached together.")

    def _best(self, limits: Mapping[str, float]) -> Sequence[Curve]:
        """The curves by the law whose allocation comes closest to the original."""
        errors: dict[object, float] = {}
        trials = len(CHANGES) + 1 + (self._blind is not None)

        def missed(curves_: Sequence[Curve]) -> float:
            allocation = _chosen(curves_, limits)
            if allocation is None:
                return math.inf
            recipes = _recipes(allocation)
            if recipes not in errors:
                self._job.progress("trying allocations", len(errors), trials)
                errors[recipes] = self._error(allocation)
            return errors[recipes]

        law = Law()
        least = missed(law.of(self._found))
        for change in CHANGES:
            other = change(law)
            error_ = missed(other.of(self._found))
            logger.info("%s: error %.4g", other, error_)
            law, least = (other, error_) if error_ < least else (law, least)
        best = law.of(self._found)
        if self._blind is not None:
            blind = Law().of(self._blind)
            best = blind if missed(blind) < least else best
        self._job.progress("trying allocations", trials, trials)
        return best

    def _error(self, allocation: Allocation) -> float:
        """The error of the outputs of a model with an allocation, which is remembered."""
        if not any(point.method for _, point in allocation):
            return 0.0
        labels = [curve.group[0].place.label for curve, _ in allocation]
        key = self._job.key("allocation", labels, _recipes(allocation))
        recalled = self._job.memory.recall(key) if key is not None else None
        if recalled is not None and isinstance(recalled.value, float):
            return recalled.value
        found = self._tried(allocation)[0]
        if key is not None and math.isfinite(found):
            self._job.memory.remember(key, found)
        return found

    def _tried(self, allocation: Allocation) -> tuple[float, Factorised]:
        """The error of the outputs of a model with an allocation, and the model."""
        planned_ = self._planned(allocation)
        ways = [factorise(self._job, planned_, "outputs", rough=True)]
        if calibrate.few(self._job):
            ways.append(factorise(self._job, planned_, "weights", rough=True))
        errors = [error(self._job, way.model) for way in ways]
        best = int(np.argmin(errors))
        return errors[best], ways[best]

    def _planned(self, allocation: Allocation) -> Mapping[str, Candidate]:
        if self._tuner is not None:
            return planned(self._job, self._tuner, allocation)
        candidates: dict[str, Candidate] = {}
        for curve, point in allocation:
            if point.method and point.ranks:
                stages = METHODS[point.method].stages(curve.group[0].site.stage, point.ranks)
                form = promising(self._job.context, curve.group[0], stages) if alike(curve.group) else DIRECT
                candidate = Candidate(point.method, point.ranks, stages, 0.0, str(form))
                candidates |= dict.fromkeys((one.place.label for one in curve.group), candidate)
        return candidates


def rules_of(allocation: Allocation) -> Rules:
    """The rules that an allocation stands for."""
    rules: dict[str, Rule] = {}
    for curve, point in allocation:
        rule = Rule(Given(point.ranks), point.method) if point.ranks else Rule(Full())
        rules |= {one.place.label: rule for one in curve.group}
    return Rules(rules)


def _total(job: Job, quantity: str) -> float:
    return float(job.size) if quantity == "bytes" else sum(whole(job, quantity, [found]) for found in job.found)


def _chosen(curves_: Sequence[Curve], limits: Mapping[str, float]) -> Allocation | None:
    """The allocation of least weighted error within limits of cost, up to the gaps of the curves."""
    errors = [np.array([curve.weight * point.error for point in curve.points]) for curve in curves_]
    costs = [np.array([[point.costs[q] for q in limits] for point in curve.points]) for curve in curves_]
    picks = choose(errors, costs, np.array(list(limits.values())))
    return None if picks is None else [(curve, curve.points[i]) for curve, i in zip(curves_, picks, strict=True)]


def _recipes(allocation: Allocation) -> object:
    """What tells allocations apart."""
    return tuple((point.method, point.ranks) for _, point in allocation)
