"""The front of models between the original and the cheapest that there is, from one look at the model and the data."""

from __future__ import annotations

import logging
import math

from onnx_tucker.allocate import Allocator, rules_of
from onnx_tucker.errors import PromiseError
from onnx_tucker.giveback import Made, make
from onnx_tucker.graph.io import file_bytes
from onnx_tucker.job import Job
from onnx_tucker.measure import Outcome, report
from onnx_tucker.pricing import decide
from onnx_tucker.promises import Promises
from onnx_tucker.report.front import Front, Spot
from onnx_tucker.report.schema import Change
from onnx_tucker.runtime.fidelity import mean_error
from onnx_tucker.runtime.session import environment
from onnx_tucker.types import Basis

logger = logging.getLogger(__name__)

NOTHING = 1.0
"""The error of a model whose outputs are zero; with as much, cheaper ones are of no use either."""


def front(job: Job, promises: Promises, number: int) -> Front:
    """Models of which each loses less than all that cost less.

    Args:
        job: the run.
        promises: compares and scores them.
        number: models that are made; those that are no better than others are left out.

    Raises:
        PromiseError: the model cannot be run.
    """
    if job.session is None or job.inputs is None:
        raise PromiseError("A sweep compares outputs, and the model cannot be run; see the reason above.")
    quantity = "time" if job.settings.benchmark and job.timed_feed is not None else "flops"
    allocations = Allocator(job, [quantity]).path(quantity, number)
    spots: list[Spot] = []
    basis: Basis | None = None
    middle = len(allocations) // 2
    for i, allocation in enumerate([allocations[middle], *allocations[:middle], *allocations[middle + 1 :]]):
        job.progress("making models", i, len(allocations))
        made = make(job, decide(job, rules_of(allocation)), basis)
        basis = basis or made.plan(job).basis  # what is best for the one in the middle does for all
        spots.append(_spot(job, promises, made))
        logger.info("error %.4g at %s", spots[-1].error, spots[-1].shares)
        if i > middle and spots[-1].error >= NOTHING:
            break
    job.progress("making models", len(allocations), len(allocations))
    return Front(
        quantity=quantity,
        original_score=promises.original_score,
        spots=_undominated(spots, quantity),
        environment=environment(job.stopwatch.machine),
        settings=job.settings.as_dict(),
    )


def _spot(job: Job, promises: Promises, made: Made) -> Spot:
    verdict = promises.verify(made.result)
    size = file_bytes(made.result.model) if made.result.weights else job.size
    none: Change[dict[str, float]] = Change()
    outcome = Outcome(
        made.decision, made.result.errors, {}, none, made.timings, verdict.closeness, Change(job.size, size)
    )
    totals = report(job, outcome).totals
    changes = {"flops": totals.flops, "params": totals.params, "bytes": totals.file_bytes}
    shares = {name: c.after / c.before for name, c in changes.items() if c.before and c.after is not None}
    if totals.speedup is not None:
        shares = {"time": 1 / totals.speedup, **shares}
    closeness = verdict.closeness or []
    error = math.inf if verdict.broken else mean_error(closeness)
    return Spot(shares, totals.speedup, totals.speedup_ci, error, closeness, verdict.score, made.plan(job))


def _undominated(spots: list[Spot], quantity: str) -> list[Spot]:
    """Those that lose less than all that cost less, the most costly first."""
    kept: list[Spot] = []
    for spot in sorted(spots, key=lambda spot: (spot.shares.get(quantity, 1.0), spot.error)):
        if spot.error < min((other.error for other in kept), default=float("inf")):
            kept.append(spot)
    return kept[::-1]
