"""Models tried on samples: of the ways to make the chains that are planned, the one whose outputs change least."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

import onnx

from onnx_tucker import calibrate
from onnx_tucker.factorise import Factorised, factorise
from onnx_tucker.job import Job
from onnx_tucker.runtime.fidelity import Comparison, mean_error
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.types import Candidate

logger = logging.getLogger(__name__)

SAMPLES = 64
"""Samples that a model is tried on at least, as far as there are; those that are kept for checks come first."""


def error(job: Job, model: onnx.ModelProto) -> float:
    """The mean of the relative errors of a model's outputs; infinite where it does not run.

    Args:
        job: the run, with data.
        model: one with chains in it.
    """
    assert job.session is not None
    assert job.reference is not None
    assert job.inputs is not None
    names, comparison = [value.name for value in job.session.get_outputs()], Comparison()
    tried = 0
    try:
        session = job.stopwatch.machine.session(model.SerializeToString(deterministic=True), job.folder)
        for i, feed in enumerate(job.inputs.feeds):
            comparison.add(names, job.reference.outputs(i), session.run(names, dict(feed)))
            tried += job.inputs.check.batch(feed)
            if tried >= SAMPLES:
                break
    except FAILURES as reason:
        logger.info("a model cannot be tried: %s", first_line(reason))
        return math.inf
    return mean_error(comparison.results())


def closest(job: Job, planned: Mapping[str, Candidate]) -> Factorised:
    """The model with nodes as they are planned, in the way that changes its outputs least.

    Args:
        job: the run.
        planned: what nodes become, by label.
    """
    bases = calibrate.bases(job, planned)
    trusts: calibrate.Trusts = {}
    best, least = factorise(job, planned, bases[0], trusts), math.inf
    for i, basis in enumerate(bases if len(bases) > 1 else ()):
        made = factorise(job, planned, basis, trusts) if i else best
        missed = error(job, made.model)
        logger.info("chains made from the %s: error %.4g of the outputs", basis, missed)
        if missed < least:
            best, least = made, missed
    return best
