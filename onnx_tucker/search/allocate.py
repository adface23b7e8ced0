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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from onnx_tucker.errors import PromiseError
from onnx_tucker.factor import METHODS
from onnx_tucker.fitting import trust
from onnx_tucker.fitting.factorise import Factorised
from onnx_tucker.fitting.rough import Rough
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import excluded, sharing
from onnx_tucker.planning.menu import Menu, only_lowered
from onnx_tucker.planning.race import raced
from onnx_tucker.planning.tuning import Tuner
from onnx_tucker.planning.ways import alike, quick
from onnx_tucker.rank.budget import Budget
from onnx_tucker.runtime.batches import evenly
from onnx_tucker.search.aim import NEAR, Aimed, aim
from onnx_tucker.search.allocation import SLOW, Allocation, reach, within
from onnx_tucker.search.budgets import UNTIMED
from onnx_tucker.search.counted import Counted
from onnx_tucker.search.curve import Curve
from onnx_tucker.search.curves import curves
from onnx_tucker.search.law import CHANGES, CLEARLY, Law, best
from onnx_tucker.search.timed import arranged, refined, timed
from onnx_tucker.types import Candidate

logger = logging.getLogger(__name__)

LEAST = 1e-3
"""The least share of what is lossless that a path leads to."""

WORTH = 2.0
"""How much more of the outputs, as a share of the squared error, may be lost for a share of the time. Smaller models
lose about four times as much.
"""

HOPED = 0.2
"""The share of the time that ranks which fill blocks of channels may save."""

FINER = (1, 4, 16)
"""How many limits are tried for each allocation that is wanted, until there are enough."""


class Allocator:
    """Finds the method and ranks of every node for budgets.

    Args:
        job: the run.
        quantities: what budgets are of.
        before: another search of the run, which has found out how errors of nodes add up.

    Attributes:
        rough: the models that were tried.
        counted: what of the cost is counted.
    """

    def __init__(self, job: Job, quantities: Sequence[str], before: Allocator | None = None) -> None:
        self._job = job
        self._quantities = [quantity for quantity in quantities if quantity != "time"]
        self._tuner = Tuner(job) if "time" in quantities else None
        groups = [group for group in sharing(job).values() if group[0].is_site]
        self._groups = groups
        self._untimed = self._curves(blind=False)
        self._found = self._with_times(self._untimed)
        self.rough: Rough = before.rough if before else Rough(job)
        self._law: Law | None = (before._law if before else None) if trust.usable(job) else Law()
        self._lawful: Sequence[Curve] | None = None if self._law is None else self._law.of(self._found)
        self.counted = Counted(job, self._quantities, self._found)
        self._full: Sequence[Curve] | None = None  # all of them, once later allocations choose among fewer
        self._timed: dict[object, float] = {}

    @cached_property
    def _blind(self) -> Sequence[Curve] | None:
        """The curves without regard to the data, where there is little of it."""
        return self._with_times(self._curves(blind=True)) if trust.few(self._job) else None

    def _curves(self, *, blind: bool) -> list[Curve]:
        quantities = list(dict.fromkeys([*self._quantities, "flops"] if self._tuner else self._quantities))
        made = []
        for i, curve in enumerate(curves(self._job, quantities, self._groups, blind=blind)):
            self._job.progress("measuring errors of nodes", i + 1, len(self._groups))
            made.append(curve)
        return made

    def _with_times(self, curves_: list[Curve]) -> list[Curve]:
        """The same curves; with a budget of time, some points of each and their times."""
        if self._tuner is None:
            return curves_
        made = []
        for i, curve in enumerate(curves_):
            self._job.progress("timing points", i + 1, len(curves_))
            made.append(timed(self._job, self._tuner, curve, self._quantities))
        return made

    def allocation(self, budgets: Sequence[Budget]) -> Allocation:
        """A point for every group of nodes, such that the budgets are held and the model loses least.

        Args:
            budgets: of the quantities.

        Raises:
            PromiseError: they cannot be reached.
        """
        shares = _shares(budgets)
        if self._lawful is None:
            limits = self.counted.limits(shares)
            if self._tuner is not None:  # what the layers may take is known from then on
                limits["time"] = self._near_time(shares).used
            self._lawful = self._best(limits)
        try:
            return self._within(self._lawful, shares)
        except PromiseError:
            if self._full is None:
                raise
            return self._within(self._full, shares)

    def without(self, slow: Mapping[str, float], allocation: Allocation, budgets: Sequence[Budget]) -> Allocation:
        """An allocation within the same budgets that leaves nodes as they are where chains of them cost too much time.

        Args:
            slow: what share of the time of all layers the chain of a node costs, by its label, the largest first.
            allocation: by `allocation`.
            budgets: of what is counted.

        Returns:
            It, or the given one where there is no such chain; later allocations leave the nodes out too, if they can.
        """
        limits, curves_ = self.counted.limits(_shares(budgets)), self._lawful or self._found
        for label, share in slow.items():
            fewer = [
                replace(curve, points=curve.points[:1], kept=SLOW) if label == curve.group[0].label else curve
                for curve in curves_
            ]
            other = within(fewer, limits)
            if other is not None and _worth(other.lost, allocation.lost, share):
                self._narrow(other)
                allocation, curves_ = other, fewer
        return allocation

    def filled(self, block: int, allocation: Allocation, budgets: Sequence[Budget]) -> Allocation | None:
        """Another allocation within the same budgets, whose ranks fill blocks of channels; None where there is no hope.

        Args:
            block: channels of a block.
            allocation: by `allocation`.
            budgets: of what is counted.
        """
        limits = self.counted.limits(_shares(budgets))
        other = within([curve.filled(block) for curve in self._lawful or self._found], limits)
        if other is None or other.recipes == allocation.recipes:
            return None
        return other if _worth(other.lost, allocation.lost, HOPED) else None

    def prefers(self, other: Allocation, allocation: Allocation, saved: float) -> bool:
        """Whether another allocation is worth what it loses more; if so, later ones are among its points, if they can.

        Args:
            other: that.
            allocation: the one that loses least.
            saved: the share of the model's time that the other takes less.
        """
        least, lost = (one.lost for one in (allocation, other))
        if trust.usable(self._job) and not trust.few(self._job):  # what nodes lose does not quite add up
            least, lost = (self.error(one) ** 2 for one in (allocation, other))
        worth = _worth(lost, least, saved)
        if worth:
            self._narrow(other)
        return worth

    def _narrow(self, allocation: Allocation) -> None:
        """Makes later allocations choose among the points that one was chosen from."""
        self._full = self._full or self._lawful
        self._lawful = [curve for curve, _ in allocation]

    def path(self, quantity: str, number: int) -> list[Allocation]:
        """Different allocations from the one that loses nothing to the cheapest, by estimate of what they cost.

        Args:
            quantity: what they cost.
            number: how many, about evenly by the logarithms of what they cost; fewer where there are no more.
        """
        least, most = reach(self._found, quantity)
        if self._lawful is None and most > 0:
            self._lawful = self._best({quantity: math.sqrt(most * max(least, most * LEAST))})
        curves_ = self._lawful or self._found  # the former may have been timed by themselves
        least, most = reach(curves_, quantity)
        least = max(least, most * LEAST)
        kept = Allocation((curve, curve.points[0]) for curve in curves_)
        found = [kept]
        for finer in FINER if most > 0 else ():  # several limits may lead to the same allocation
            ways = {kept.recipes: kept}
            for limit in np.geomspace(most * (1 + 1e-9), least * (1 + 1e-9), finer * number):
                allocation = within(curves_, {quantity: float(limit)})
                if allocation is not None:
                    ways.setdefault(allocation.recipes, allocation)
            found = list(ways.values())
            if len(found) >= number:
                break
        return [found[i] for i in evenly(len(found), number)]

    def error(self, allocation: Allocation) -> float:
        """The error of the outputs of the model with an allocation, made roughly; NaN where there is no data."""
        return self.rough.error(self._candidates(allocation)) if trust.usable(self._job) else math.nan

    def roughly(self, allocation: Allocation) -> Factorised:
        """The model with an allocation, fitted roughly, or where there are few samples, made from its weights."""
        return self.rough.made(self._candidates(allocation))[1]

    def _near_time(self, shares: Mapping[str, float]) -> Allocation:
        """An allocation for budgets; more points are timed where those there are do not lead near that of time."""
        allocation = self._within(Law().of(self._found), shares)
        if self._share_of_time(allocation) >= NEAR * shares["time"]:
            return allocation
        self._found = self._finer(allocation)
        return self._within(Law().of(self._found), shares)

    def _finer(self, allocation: Allocation) -> list[Curve]:
        """The curves with further timed points around those of an allocation."""
        assert self._tuner is not None
        _, whole = reach(self._found, "time")
        made = []
        for i, (curve, known, (_, point)) in enumerate(zip(self._untimed, self._found, allocation, strict=True)):
            self._job.progress("timing points", i + 1, len(allocation))
            made.append(refined(self._job, self._tuner, curve, known, point, whole, self._quantities))
        return made

    def _within(self, curves_: Sequence[Curve], shares: Mapping[str, float]) -> Allocation:
        """The allocation of some curves that holds all budgets, that of time by measurement."""
        if self._tuner is not None:
            return self._within_time(curves_, shares)
        chosen = within(curves_, self.counted.limits(shares))
        if chosen is None:
            raise self.counted.unreached(shares)
        return chosen

    def _within_time(self, curves_: Sequence[Curve], shares: Mapping[str, float]) -> Allocation:
        """An allocation that holds a budget of time too, by search for what the layers may take alone in sum."""
        limits, share = self.counted.limits(shares), shares["time"]

        def at(limit: float) -> Aimed[Allocation] | None:
            chosen = within(curves_, {**limits, "time": limit * (1 + 1e-9)})
            return None if chosen is None else Aimed(chosen, chosen.used, self._share_of_time(chosen))

        aimed = aim(at, reach(curves_, "time"), share)
        if not aimed:
            raise self.counted.unreached(shares)
        found = max((one for one in aimed if one.taken <= share), key=lambda one: one.used, default=None)
        if found is None:
            fastest = min(one.taken for one in aimed)
            why = "" if any(len(curve.points) > 1 for curve in curves_) else ", as nothing of it can be factorised"
            raise PromiseError(
                f"The budget {Budget('time', share)} cannot be reached: the fastest model found takes the share "
                f"{fastest:.4g}{why}."
            )
        return found.what

    def _share_of_time(self, allocation: Allocation) -> float:
        """The share of the original's time that a model takes with an allocation.

        Raises:
            PromiseError: the model cannot be timed.
        """
        assert self._tuner is not None
        recipes = allocation.recipes
        if recipes not in self._timed:
            timings = raced(self._job, [self._arranged(allocation)])
            if not timings:
                raise PromiseError(UNTIMED)
            self._timed[recipes] = 1 / timings[1].speedup
            logger.info("layers of %.3g ms alone: share of time %.3g", allocation.used, self._timed[recipes])
        return self._timed[recipes]

    def _best(self, limits: Mapping[str, float]) -> Sequence[Curve]:
        """The curves by the law whose allocation comes closest to the original."""
        errors: dict[object, float] = {}
        trials = 1 + sum(len(values) for _, values in CHANGES) + (self._blind is not None)

        def missed(curves_: Sequence[Curve]) -> float:
            allocation = within(curves_, limits)
            if allocation is None:
                return math.inf
            recipes = allocation.recipes
            if recipes not in errors:
                self._job.progress("trying allocations", len(errors), trials)
                errors[recipes] = self.rough.error(self._candidates(allocation))
            return errors[recipes]

        self._law, least = best(self._found, missed)
        lawful = self._law.of(self._found)
        if self._blind is not None:
            blind = Law().of(self._blind)
            logger.info("by the errors of weights: error %.4g", missed(blind))
            if missed(blind) * CLEARLY < least:
                lawful, self._law = blind, None
        self._job.progress("trying allocations", trials, trials)
        return lawful

    def _arranged(self, allocation: Allocation) -> Mapping[str, Candidate]:
        assert self._tuner is not None
        return arranged(self._job, self._tuner, allocation, self._others)

    @cached_property
    def _others(self) -> Sequence[Menu]:
        """What nodes could become that cannot be factorised."""
        assert self._tuner is not None
        skipped = (group for group in sharing(self._job).values() if group[0].skipped)
        return [only_lowered(self._job, self._tuner, g) for g in skipped if not excluded(self._job.settings, g)]

    def _candidates(self, allocation: Allocation) -> Mapping[str, Candidate]:
        if self._tuner is not None:
            return self._arranged(allocation)
        candidates: dict[str, Candidate] = {}
        for curve, point in allocation:
            if point.method and point.ranks:
                stages = METHODS[point.method].stages(curve.group[0].site.stage, point.ranks)
                candidate = Candidate(point.method, point.ranks, stages)
                if alike(curve.group):
                    candidate = quick(self._job.context, curve.group[0], candidate)
                candidates |= dict.fromkeys((one.label for one in curve.group), candidate)
        return candidates


def _worth(lost: float, least: float, saved: float) -> bool:
    """Whether a share of the time is worth that more than the least is lost."""
    return lost <= (1 + WORTH * saved) * least


def _shares(budgets: Sequence[Budget]) -> dict[str, float]:
    return {budget.of: budget.share for budget in budgets}
