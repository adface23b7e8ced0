"""The front of models between the original and the cheapest that there is, from one look at the model and the data."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from itertools import pairwise

from onnx_tucker.errors import PromiseError
from onnx_tucker.giveback import Made, make, outlined
from onnx_tucker.job import Job
from onnx_tucker.planning.pricing import decide
from onnx_tucker.promises import Promises
from onnx_tucker.report.front import Front, Spot
from onnx_tucker.runtime.batches import evenly
from onnx_tucker.runtime.fidelity import mean_error
from onnx_tucker.runtime.session import environment
from onnx_tucker.search.allocate import Allocator
from onnx_tucker.types import Basis

logger = logging.getLogger(__name__)

NOTHING = 1.0
"""The error of a model whose outputs are zero; with as much, cheaper ones are of no use either."""


def front(job: Job, promises: Promises, number: int) -> Front:
    """Models of which each loses less than all that cost less.

    As many are made as are asked for, evenly spread by estimate, and for those that turn out no better than others
    up to as many again, where the front has its widest gaps.

    Args:
        job: the run.
        promises: compares and scores them.
        number: how many, at most.

    Raises:
        PromiseError: the model cannot be run, or its outputs cannot be compared.
    """
    if job.session is None or job.inputs is None:
        raise PromiseError("A sweep compares outputs, and the model cannot be run; see the reason above.")
    allocator = Allocator(job, [job.cost])
    ways = allocator.path(job.cost, 2 * number)
    first = evenly(len(ways), number)
    middle = len(first) // 2
    left = [first[middle], *first[:middle], *first[middle + 1 :]]
    basis: Basis | None = None
    made: dict[int, Spot] = {}
    best: dict[int, Spot] = {}
    useless = len(ways)
    while left:
        way = left.pop(0)
        if way < useless:
            job.progress("making models", len(made), max(len(first), len(made) + 1))
            one = make(job, decide(job, ways[way].rules), basis, allocator.rough)
            basis = basis or one.plan(job).basis  # what is best for the one in the middle does for all
            made[way] = spot = _spot(job, promises, one)
            logger.info("error %.4g at %s", spot.error, spot.shares)
            best = _undominated(made, job.cost)
            if way > first[middle] and NOTHING <= spot.error < math.inf:
                useless = way
        if not left and len(best) < number:
            left = _between(best, job.cost, set(range(useless)) - made.keys())
    job.progress("making models", len(made), len(made))
    if not best:
        raise PromiseError(
            "No model of the front can be compared with the original: no output has numbers, or no score."
        )
    return Front(
        quantity=job.cost,
        original_score=promises.original_score,
        points=list(best.values()),
        environment=environment(job.machine),
        settings=job.settings.as_dict(),
    )


def _spot(job: Job, promises: Promises, made: Made) -> Spot:
    verdict = promises.verify(made.result)
    outline = outlined(job, made, verdict.closeness)
    closeness = verdict.closeness or []
    error = math.inf if verdict.broken else mean_error(closeness)
    totals = outline.totals
    return Spot(outline.shares(), totals.speedup, totals.speedup_ci, error, closeness, verdict.score, made.plan(job))


def _undominated(spots: Mapping[int, Spot], quantity: str) -> dict[int, Spot]:
    """Those that lose less than all that cost less, the most costly first."""
    kept: dict[int, Spot] = {}
    for way, spot in sorted(spots.items(), key=lambda item: (_cost(item[1], quantity), item[1].error)):
        if spot.error < min((other.error for other in kept.values()), default=math.inf):
            kept[way] = spot
    return dict(reversed(kept.items()))


def _between(best: Mapping[int, Spot], quantity: str, untried: Collection[int]) -> list[int]:
    """The untried way in the middle of the widest gap of a front that has any, as the only one; none where none has."""
    gaps = []
    for (before, above), (behind, below) in pairwise(best.items()):
        inside = sorted(way for way in untried if before < way < behind)
        if inside:
            gaps.append((_cost(above, quantity) / _cost(below, quantity), inside[len(inside) // 2]))
    return [max(gaps)[1]] if gaps else []


def _cost(spot: Spot, quantity: str) -> float:
    return spot.shares.get(quantity, 1.0)
