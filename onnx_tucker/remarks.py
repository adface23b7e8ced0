"""What a user should know of a run, and is warned of."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from onnx_tucker.fitting import trust
from onnx_tucker.fitting.obstacles import unread
from onnx_tucker.job import Job
from onnx_tucker.promises import Verdict
from onnx_tucker.runtime.fidelity import called
from onnx_tucker.runtime.inputs import HELD_OUT, fixed_sizes
from onnx_tucker.types import Plan

logger = logging.getLogger(__name__)

RUINED = 0.5
"""The relative error of an output from which on a model is hardly of use."""
MANY, FEW = 8, 4.0
"""Samples kept for checks from which on it is said if they count as fewer, and as how few that is."""


def unguarded(job: Job, plans: Sequence[Plan]) -> None:
    """Says so where factors are made without data, all of them or some."""
    found = {f.label: f for plan in plans for f, c in zip(job.found, plan.choices, strict=True) if c.method}
    if found and job.inputs is not None and job.inputs.kind == "data" and job.inputs.blank:
        logger.warning(
            "Each sample of the data is a single value throughout, which says nothing of others: factors are made from "
            "the weights alone, and errors are those on such samples."
        )
        return
    if not trust.usable(job):
        known = "each node's statistics" if job.settings.statistics else "the weights"
        if found:
            logger.warning("Without --data nothing guards the accuracy: factors are made from %s alone.", known)
        return
    if found:
        undivided(job)
    reasons = {label: reason for label, one in found.items() if (reason := unread(job, one))}
    if reasons:
        label, reason = next(iter(reasons.items()))
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        logger.warning("Made from weights alone, whatever the data is: %s (%s)%s.", label, reason, more)


def undivided(job: Job) -> None:
    """Says so where there are too few samples to keep some for checks."""
    if job.inputs is None or job.inputs.held_out or job.session is None:
        return
    fit, fixed = job.inputs.fit, fixed_sizes(job.session.get_inputs())
    size = max(fixed, default=1)
    batches = fit.samples // size  # none where what is fixed is no batch, as of a state
    what = "a single sample" if fit.samples == 1 else f"{fit.samples} samples"
    if size > 1 and batches:
        what = f"{batches} batches of {size} samples"
    logger.warning(
        "Of %s none is kept for checks, as one in %d of more is: errors are those of what factors are fitted to.",
        what,
        HELD_OUT,
    )


def far(job: Job, verdict: Verdict | None) -> None:
    """Says so where outputs are far from the original's, or nothing is known of them."""
    closeness = verdict.closeness if verdict else None
    compared = closeness if closeness is not None and job.inputs is not None and job.inputs.kind == "data" else ()
    samples = job.inputs.check.samples if job.inputs is not None else 0
    for name, output in called(compared):
        if output.relative_l2 and samples >= MANY and (output.effective_samples or FEW) < FEW:
            logger.warning(
                "Of the %d samples kept for checks, those with the largest values count most in the error of the %s, "
                "as much as %.1f of one size would: it may be another on other data; give more.",
                samples,
                name,
                output.effective_samples,
            )
        if output.relative_l2 is None and output.max_abs is None and not output.parts:
            logger.warning(
                "Nothing is known of the %s: on the samples kept for checks it has no finite numbers (is there "
                "NaN in --data?), or other shapes than the original's.",
                name,
            )
        elif output.relative_l2 is not None and output.relative_l2 > RUINED:
            logger.warning(
                "The %s differs from the original's by %.0f %% of its size; --max-error E limits that.",
                name,
                100 * output.relative_l2,
            )
