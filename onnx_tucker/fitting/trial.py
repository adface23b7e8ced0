"""Models tried on samples: how far their outputs are from the original's."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from statistics import fmean

import onnx

from onnx_tucker.fitting import trust
from onnx_tucker.fitting.factorise import Factorised, factorise
from onnx_tucker.fitting.trust import Trusts
from onnx_tucker.graph.segment import probe
from onnx_tucker.job import Job
from onnx_tucker.runtime.fidelity import Comparison, mean_error
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.types import Basis

logger = logging.getLogger(__name__)

SAMPLES = 64
"""Samples that a model is tried on at least, as far as there are; those that are kept for checks come first.

More where that takes no time: of allocations for a quarter of a CIFAR network, 64 images took the second best for the
worse one and stopped there, at .457 of the outputs; all 512, though most are fitted to, led to .434.
"""
HEAVY_MACS, LEAST = 4e11, 16
"""Multiplications of such a trial from which on there are fewer, but so many."""


def error(job: Job, model: onnx.ModelProto, samples: int | None = None) -> float:
    """The mean of the relative errors of a model's outputs, or of their parts; infinite where it does not run.

    Args:
        job: the run, with data.
        model: one with chains in it.
        samples: how many of them it is tried on at least; as many as that takes no time by unless given.
    """
    assert job.judged is not None
    assert job.inputs is not None
    names, comparison = job.judged.names, Comparison()
    usual = min(SAMPLES, max(LEAST, job.samples_for(HEAVY_MACS)))
    tried, most = 0, samples or max(usual, job.samples_for(trust.LIGHT_MACS))
    try:
        session = job.open(probe(model, names), arena=False)
        for i, feed in enumerate(job.inputs.feeds):
            comparison.add(names, job.judged.outputs(i), session.run(names, dict(feed)))
            tried += job.inputs.check.batch(feed)
            if tried >= most:
                break
    except FAILURES as reason:
        logger.info("a model cannot be tried: %s", first_line(reason))
        return math.inf
    return mean_error(comparison.results())


def held_out(
    job: Job, unfitted: Factorised, bases: Sequence[Basis], trusts: Trusts | None = None
) -> dict[Basis, float]:
    """Of each way the mean error of models on the samples that they are not fitted to; empty where that is not known.

    Samples that are fitted to look closer than others, the more the fewer there are.

    Args:
        job: the run.
        unfitted: the model with chains from its weights alone.
        bases: the ways.
        trusts: see `fitting.sequential.Fitting`.
    """
    errors: dict[Basis, list[float]] = {}
    for fold in job.folds:
        assert fold.inputs is not None
        for basis in bases:
            made = unfitted
            if basis != "weights":
                made = factorise(fold, unfitted.planned, basis, rough=True, trusts=trusts)
            errors.setdefault(basis, []).append(error(fold, made.model, fold.inputs.check.samples))
    means = {basis: fmean(found) for basis, found in errors.items()}
    if means:
        logger.info("errors of the outputs on other samples: %s", ", ".join(f"{b} {e:.4g}" for b, e in means.items()))
    return means
