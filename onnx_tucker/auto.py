"""`--ranks auto`: the best model for budgets, or the fastest that holds what the user was promised of its outputs."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

from onnx_tucker.allocate import Allocation, Allocator, rules_of
from onnx_tucker.errors import PromiseError
from onnx_tucker.giveback import Made, hold, make, planned_only
from onnx_tucker.graph.io import file_bytes
from onnx_tucker.job import Job
from onnx_tucker.pricing import decide
from onnx_tucker.promises import Promises
from onnx_tucker.rank.budget import Budget
from onnx_tucker.types import Closeness

logger = logging.getLogger(__name__)

TRIES = 3
"""Models that are made for budgets, each for tighter ones if the one before measured above them."""
TIGHTER = 0.98
"""How far below a budget that was missed the next model is to be, relative to what it was missed by."""
HALVINGS = 5
"""Steps between a model that holds what was promised and a faster one that does not."""

Outcome = tuple[Made, list[Closeness] | None]


def search(job: Job, promises: Promises) -> Outcome:
    """The model, and the closeness of its outputs; with `--dry-run` only the plan for it.

    Raises:
        PromiseError: nothing that was found holds all budgets and promises.
    """
    return _within(job, promises) if job.settings.budgets else _fastest(job, promises)


def _within(job: Job, promises: Promises) -> Outcome:
    """The most accurate model within the budgets."""
    budgets = job.settings.budgets
    allocator = Allocator(job, [budget.of for budget in budgets])
    aims = budgets
    for _ in range(TRIES):
        outcome = _carried_out(job, promises, allocator.allocation(aims))
        exceeded = _exceeded(job, outcome[0])
        if not exceeded:
            break
        logger.info("missed: %s", ", ".join(f"{quantity} {share:.4g}" for quantity, share in exceeded.items()))
        aims = tuple(
            replace(a, share=a.share * b.share / exceeded[a.of] * TIGHTER) if a.of in exceeded else a
            for a, b in zip(aims, budgets, strict=True)
        )
    return outcome


def _exceeded(job: Job, made: Made) -> dict[str, float]:
    """What a model has of the original's time and bytes, which are known only now, where that is above a budget."""
    shares = {"bytes": file_bytes(made.result.model) / job.size}
    if made.timings:
        shares["time"] = 1 / made.timings[1].speedup
    return {b.of: shares[b.of] for b in job.settings.budgets if shares.get(b.of, 0.0) > b.share}


def _fastest(job: Job, promises: Promises) -> Outcome:
    """The fastest model that holds what was promised, or where nothing is timed, the one with the fewest FLOPs."""
    quantity = "time" if job.settings.benchmark and job.timed_feed is not None else "flops"
    allocator = Allocator(job, [quantity])
    low, high = allocator.least(quantity), 1.0
    held: Allocation = allocator.allocation([Budget(quantity, high)])
    broken: Allocation | None = None
    for _ in range(HALVINGS):
        share = math.sqrt(low * high)
        try:
            allocation = allocator.allocation([Budget(quantity, share)])
        except PromiseError as error:
            logger.info("%s", error)
            low = share
            continue
        verdict = promises.verify(allocator.roughly(allocation))
        logger.info("%s:%.3g: %s", quantity, share, verdict.broken or "holds")
        if verdict.broken:
            low, broken = share, allocation
        else:
            high, held = share, allocation
    if broken is not None and not job.settings.dry_run:  # a chain that is fitted in full is closer
        made = make(job, decide(job, rules_of(broken)))
        verdict = promises.verify(made.result)
        if not verdict.broken:
            return made, verdict.closeness
    return _carried_out(job, promises, held)


def _carried_out(job: Job, promises: Promises, allocation: Allocation) -> Outcome:
    decision = decide(job, rules_of(allocation))
    if job.settings.dry_run:
        return planned_only(job, decision), None
    return hold(job, make(job, decision), promises)
