"""Whole models timed in turn with the original: with noise for weights, of which the time does not depend."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import onnx

from onnx_tucker.graph import layer
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.splice import splice
from onnx_tucker.job import Job
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.runtime.timing import Timing
from onnx_tucker.types import Candidate

logger = logging.getLogger(__name__)

MODEL_SECONDS, MODEL_TIGHT = 2.0, 0.01
"""Time spent at most on comparing a whole model with the original, and how narrow the interval is to be."""


def raced(job: Job, ways: Sequence[Mapping[str, Candidate]]) -> list[Timing]:
    """Times of the whole model as it is, and in each way with noise for weights; empty where it is not timed.

    Args:
        job: the run.
        ways: what nodes become, by label.
    """
    if job.timed_feed is None:
        return []
    try:
        models = [job.content, *(with_noise(job, way) for way in ways)]
        return job.stopwatch.compare(models, job.timed_feed, MODEL_SECONDS, job.folder, MODEL_TIGHT)
    except FAILURES as error:
        logger.warning("A model with chains cannot be timed: %s", first_line(error))
        return []


def with_noise(job: Job, planned: Mapping[str, Candidate]) -> bytes:
    """The model with what nodes become in it, and noise for their weights.

    Args:
        job: the run.
        planned: what changes, by label.
    """
    names, weights = Names(job.model), dict[str, list[onnx.TensorProto]]()
    for found in job.found:
        if found.label in planned:
            leader = weights.get(found.group)
            weights[found.label] = leader or layer.noise_weights(found, planned[found.label], names)
    return splice(job.model, planned, weights, job.found, job.context).SerializeToString(deterministic=True)
