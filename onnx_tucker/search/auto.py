"""`--ranks auto`: the best model for budgets, or the fastest that holds what the user was promised of its outputs."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from onnx_tucker.errors import PromiseError
from onnx_tucker.giveback import Made, candidates_of, fitted, hold, make, outlined, paying, planned_only
from onnx_tucker.job import Job
from onnx_tucker.planning.pricing import Decision, decide
from onnx_tucker.planning.race import raced
from onnx_tucker.promises import Promises, Verdict
from onnx_tucker.rank.budget import Budget
from onnx_tucker.rank.fixed import Full
from onnx_tucker.rank.rules import Rule, Rules
from onnx_tucker.rank.search import BLOCKS
from onnx_tucker.search.allocate import Allocator
from onnx_tucker.search.allocation import Allocation
from onnx_tucker.search.budgets import require_held

logger = logging.getLogger(__name__)

TRIES = 3
"""Models that are made for budgets, each for tighter ones if the one before measured above them."""
TURNS = 3
"""How often chains that cost too much time are left out: others take their place, which may too."""
TIGHTER = 0.98
"""How far below a budget that was missed the next model is to be, relative to what it was missed by."""
FASTER = 0.98
"""The share of the time that a model is to have where the closest within the budgets is slower than the original: less
than all, as what is made may take more than what was timed; less still where it does.
"""
USELESS, WORSE = 0.5, 1.4
"""The error of the outputs from which on such a model is not taken, if it is so many times that of the closest.

Small networks of depthwise convolutions have been made useless so: of one that keeps .976 of a score of .986 at half of
its FLOPs, and is slower for it, what was not slower kept .207.
"""
NOTICED = 0.003
"""How much more of the time of all layers a chain takes than its node where something is done about it."""
FILLED = 0.03
"""The least share of the model's time for which ranks that fill blocks of channels are taken: the error of what is lost
for less is larger.
"""
FIRM = ("flops", "params")
"""What a model has of the original's, of which chains that are fitted change nothing."""
STEPS = 32
"""Allocations between what loses nothing and the cheapest, among which the fastest that holds what was promised is."""

NEAR, FURTHER = 4, (1, 2, 4)
"""How far off in these allocations are alike, and which are tried besides, beyond the first that broke a promise."""

Best = tuple[Made, Verdict | None]
"""A model, and what it is found to be."""


def search(job: Job, promises: Promises) -> Best:
    """The model, and what it is found to be; with `--dry-run` only the plan for it.

    Raises:
        PromiseError: nothing that was found holds all budgets and promises.
    """
    budgets = job.settings.budgets
    if not budgets:
        return _fastest(job, promises)
    if all(budget.of == "time" for budget in budgets):  # then other forms of the nodes, which lose nothing, may do
        lossless = decide(job, Rules({"*": Rule(Full())}))
        made = paying(job, lossless)
        enough = bool(made.result.weights) or not job.settings.fail_if_unchanged
        if made.timings and enough and not _exceeded(job, made, budgets):
            if job.settings.dry_run:
                return planned_only(job, lossless), None
            return hold(job, fitted(job, made), promises)
    return _within(job, promises, budgets)


def _within(
    job: Job, promises: Promises, budgets: tuple[Budget, ...], before: Allocator | None = None, least: float = math.nan
) -> Best:
    """The most accurate model within some budgets; a faster one within them where it is slower than the original.

    Args:
        job: the run.
        promises: to hold.
        budgets: those.
        before: the search of what is slower, if this is for a faster one.
        least: the error of that.

    Raises:
        PromiseError: no model holds them, or none that is faster and of use.
    """
    allocator = Allocator(job, [budget.of for budget in budgets], before)
    allocation = allocator.allocation(budgets)
    error = allocator.error(allocation) if before is not None else math.nan
    if error > max(USELESS, WORSE * least):
        raise PromiseError(
            f"What is not slower than the original would differ from it by {error:.0%} of its outputs, where what is "
            f"slower differs by {least:.0%}."
        )
    decision, untimed = decide(job, allocation.rules), all(budget.of != "time" for budget in budgets)
    if untimed and not job.settings.keep_slower:
        decision = _quicker(job, allocator, budgets, allocation, decision)
    if job.settings.dry_run:
        return planned_only(job, decision), None
    made = paying(job, decision)
    if made.slower and untimed:
        logger.info("what is closest within the budgets is slower than the original")
        try:
            faster = (*budgets, Budget("time", FASTER))
            outcome = _within(job, promises, faster, allocator, allocator.error(allocation))
            if not outcome[0].slower:
                return outcome
        except PromiseError as reason:
            logger.warning("%s", reason)
        require_held([budget for budget in budgets if budget.of in FIRM], outlined(job, made))
    return hold(job, _measured_within(job, made, allocator, budgets), promises)


def _quicker(
    job: Job, allocator: Allocator, budgets: Sequence[Budget], allocation: Allocation, decision: Decision
) -> Decision:
    """What nodes become where ranks fill blocks of channels, and where chains slower than their nodes are left out.

    Each as far as it is worth what is lost more.

    Args:
        job: the run.
        allocator: of the budgets.
        budgets: of what is counted.
        allocation: the closest within them.
        decision: what nodes become by that.
    """
    allocation, decision = _filled(job, allocator, budgets, allocation, decision)
    for _ in range(TURNS):
        slow = _slow_chains(job, decision)
        fewer = allocator.without(slow, allocation, budgets)
        if fewer is allocation:
            break
        logger.info("slower than their nodes: the chains of %s", ", ".join(slow))
        allocation, decision = fewer, decide(job, fewer.rules)
    return decision


def _filled(
    job: Job, allocator: Allocator, budgets: Sequence[Budget], allocation: Allocation, decision: Decision
) -> tuple[Allocation, Decision]:
    """The allocation, and what nodes become by it, with ranks that fill blocks as large as is worth what is lost."""
    for block in BLOCKS if decision.prices else ():
        filled = allocator.filled(block, allocation, budgets)
        if filled is None:
            continue
        other = decide(job, filled.rules)
        timings = raced(job, [candidates_of(job, decision), candidates_of(job, other)])
        saved = (timings[1].ms - timings[2].ms) / timings[0].ms if timings else 0.0
        logger.info("ranks that fill blocks of %d channels save the share %.3g of the time", block, saved)
        if saved < FILLED or not allocator.prefers(filled, allocation, saved):
            break  # larger blocks lose more
        allocation, decision = filled, other
    return allocation, decision


def _slow_chains(job: Job, decision: Decision) -> dict[str, float]:
    """The chains that take more time than their nodes, the slowest first: how much more, as a share of all layers'.

    Args:
        job: the run.
        decision: what nodes become.

    Returns:
        By the label of the first of the nodes that share a weight.
    """
    whole, more = 0.0, defaultdict[str, float](float)
    for found, choice in zip(job.found, decision.plan.choices, strict=True):
        price = decision.prices.get(found.label)
        whole += price.before.ms if price else 0.0
        if price and price.after and choice.method:
            more[found.group] += price.after.ms - price.before.ms
    ordered = sorted(more, key=lambda label: -more[label])
    return {label: more[label] / whole for label in ordered if more[label] > NOTICED * whole}


def _measured_within(job: Job, made: Made, allocator: Allocator, budgets: tuple[Budget, ...]) -> Made:
    """A model that measures within the budgets, fitted; tighter ones are aimed at while it does not.

    Args:
        job: the run.
        made: the first one, with chains from its weights, which tell as much before any are fitted.
        allocator: of the budgets.
        budgets: those.
    """
    aims = budgets
    for _ in range(TRIES - 1):
        exceeded = _exceeded(job, made, budgets)
        if not exceeded:
            whole = fitted(job, made, rough=allocator.rough)
            exceeded = _exceeded(job, whole, budgets)  # by a few bytes more
            if not exceeded:
                return whole
        logger.info("missed: %s", ", ".join(f"{quantity} {share:.4g}" for quantity, share in exceeded.items()))
        factors = {b.of: b.share / exceeded[b.of] * TIGHTER for b in budgets if b.of in exceeded}
        tighter = [replace(aim, share=aim.share * factors.get(aim.of, 1.0)) for aim in aims]
        aims = tuple(replace(a, share=max(a.share, allocator.counted.least(a.of) * (1 + 1e-9))) for a in tighter)
        try:
            made = paying(job, decide(job, allocator.allocation(aims).rules))
        except PromiseError as error:  # what was asked for could be reached, but for a little
            logger.info("%s", error)
            break
    return fitted(job, made, rough=allocator.rough)


def _exceeded(job: Job, made: Made, budgets: Sequence[Budget]) -> dict[str, float]:
    """What a model has of the original's time and bytes, which are known only now, where that is above a budget."""
    shares = dict(outlined(job, made).shares())
    if made.slower:  # what was given back for that may be missed by other budgets
        shares["time"] = max(shares.get("time", 1.0), 1.0)
    return {b.of: shares[b.of] for b in budgets if b.of not in FIRM and shares.get(b.of, 0.0) > b.share}


def _fastest(job: Job, promises: Promises) -> Best:
    """The fastest model that holds what was promised, or where nothing is timed, the one with the fewest FLOPs."""
    allocator = Allocator(job, [job.cost])
    ways = allocator.path(job.cost, STEPS)
    tried: dict[int, Verdict] = {}

    def holds(number: int) -> bool:
        if number not in tried:
            job.progress("holding promises", len(tried), len(ways).bit_length())
            tried[number] = promises.verify(allocator.roughly(ways[number]), rough=True)
            logger.info("allocation %d of %d: %s", number, len(ways), tried[number].broken or "holds")
        return not tried[number].broken

    def lucky(number: int, verdict: Verdict) -> bool:
        near = [n for n in sorted(tried) if n != number and abs(n - number) <= NEAR]
        return promises.lucky([*(tried[n] for n in near), verdict])

    def firm(number: int) -> bool:
        return holds(number) and not lucky(number, tried[number])

    low, high = 0, len(ways)  # the first loses nothing
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    if job.settings.max_drop is not None:  # scores err, so that what is faster may hold where this does not
        for number in (high + further for further in FURTHER if high + further < len(ways)):
            low = number if firm(number) else low
    above = low + 1
    if above < len(ways) and not job.settings.dry_run:  # chains that are fitted in full are closer
        made = make(job, decide(job, ways[above].rules), rough=allocator.rough)
        verdict = promises.verify(made.result)
        if not verdict.broken and not lucky(above, verdict):
            return made, verdict
    while True:
        while low > 0 and not firm(low):
            low -= 1
        job.progress("holding promises", 1, 1)
        decision = decide(job, ways[low].rules)
        if job.settings.dry_run:
            return planned_only(job, decision), None
        try:
            return hold(job, make(job, decision, rough=allocator.rough), promises)
        except PromiseError as error:  # what was tried is not quite what is made
            if low == 0:
                raise
            logger.info("allocation %d of %d: %s", low, len(ways), error)
            low -= 1
