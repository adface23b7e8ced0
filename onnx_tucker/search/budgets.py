"""What a run holds a model to of the original's cost: whether that can be known, and whether it is held."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from onnx_tucker.errors import PromiseError
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import eligible
from onnx_tucker.rank.budget import Budget
from onnx_tucker.report.schema import Report

logger = logging.getLogger(__name__)

UNTIMED = "A budget of time cannot be held, because the model cannot be timed; see above."
"""What is said where it cannot."""


def require_known(job: Job) -> None:
    """Makes sure that what budgets are of is known: times of the model, and FLOPs of all that could be factorised.

    Raises:
        PromiseError: it is not.
    """
    quantities = {budget.of for budget in job.settings.budgets}
    if "time" in quantities and job.timed_feed is None:
        raise PromiseError(UNTIMED)
    if "flops" not in quantities:
        return
    unknown = [f.label for f in eligible(job) if f.reading.layer is None]
    if unknown:
        raise PromiseError(
            f"A budget of FLOPs cannot be held, because those of {_named(unknown)} are not known; fix the shapes of "
            "the inputs with --input-shape or --dim, or leave the nodes out with --exclude."
        )
    others = [f.label for f in job.found if f.reading.layer is None]
    if others and len(others) == len(job.found):
        raise PromiseError(f"A budget of FLOPs cannot be held, because those of {_named(others)} are not known.")
    if others:
        logger.warning("The budget of FLOPs is without those of %s, which are not known.", _named(others))


def _named(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more"


def require_held(budgets: Sequence[Budget], found: Report) -> None:
    """Holds a model to budgets of what is known of it: all but what takes none, and time and bytes of a dry run.

    Raises:
        PromiseError: it costs more.
    """
    shares = found.shares()
    for budget in budgets:
        share = shares.get(budget.of, 0.0)
        if share > budget.share * (1 + 1e-9):
            given_back = any(node.reason.startswith("given back") for node in found.nodes)
            why = (
                ", as chains that made the model slower or broke a promise were given back; --keep-slower keeps those "
                "that are only slower"
            )
            raise PromiseError(
                f"The budget {budget} is not held: the result has the share {share:.3g}{why if given_back else ''}."
            )
