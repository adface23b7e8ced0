"""What is measured of single nodes within the whole model: their times, and the errors of their outputs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping

import onnx

from onnx_tucker.graph import layer, owners
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.segment import probe
from onnx_tucker.job import Job
from onnx_tucker.runtime import fidelity
from onnx_tucker.runtime.session import FAILURES, Feed
from onnx_tucker.types import Candidate

logger = logging.getLogger(__name__)

PROBE_BYTES = 256 * 2**20
"""Activations that are held at the same time while the errors of single nodes are measured."""


def in_situ(job: Job, model: onnx.ModelProto) -> dict[str, float] | None:
    """Milliseconds of each weight-bearing node of the main graph, or of its chain, within a model; None if not run."""
    if not job.settings.benchmark or job.timed_feed is None:
        return None
    labels = {found.label for found in job.found if found.place.scope.outer is None}
    try:
        steps = job.stopwatch.profile(owners.tagged(model), job.timed_feed, job.folder)
    except FAILURES as error:
        logger.info("the model is not profiled: %s", error)
        return None
    return owners.times(model, labels, steps, {node.name for node in job.model.graph.node})


def output_errors(
    job: Job, model: onnx.ModelProto, planned: Mapping[str, Candidate], weights: Mapping[str, list[onnx.TensorProto]]
) -> dict[str, float | None]:
    """Relative L2 error of each changed node's output, on the input that the original model computes for it.

    Args:
        job: the run.
        model: the result.
        planned: what the nodes become.
        weights: the weights that are stored for that.
    """
    feed = job.timed_feed
    if feed is None or not planned:
        return {}
    key = job.planned_key("output errors", planned, model.SerializeToString(deterministic=True), dict(feed))
    recalled = job.memory.recall(key)
    if recalled is not None:
        return dict(recalled.value)
    errors = _output_errors(job, feed, planned, weights)
    job.memory.remember(key, errors)
    return errors


def _output_errors(
    job: Job, feed: Feed, planned: Mapping[str, Candidate], weights: Mapping[str, list[onnx.TensorProto]]
) -> dict[str, float | None]:
    errors = {}
    for group in _groups(job, planned):
        wanted = sorted({name for found in group for name in (found.input, found.output)} - feed.keys())
        try:
            session = job.open(probe(job.model, wanted))
            values = dict(feed) | dict(zip(wanted, session.run(wanted, dict(feed)), strict=True))
        except FAILURES as error:
            logger.warning("Errors of single nodes are not measured: %s", error)
            return {}
        for found in group:
            label = found.label
            chain = layer.real_chain(job.model, found, job.context, planned[label], weights[label])
            try:
                [computed] = job.machine.session(chain).run(None, {layer.INPUT: values[found.input]})
            except FAILURES as error:
                logger.info("%s: its error is not measured: %s", label, error)
                continue
            errors[label] = fidelity.relative_l2(values[found.output], computed)
    return errors


def _groups(job: Job, planned: Mapping[str, Candidate]) -> Iterator[list[Found]]:
    """The changed nodes of the main graph that can stand alone, in groups whose values fit into `PROBE_BYTES`."""
    group: list[Found] = []
    size = 0
    for found in job.found:
        alone = found.label in planned and layer.stands_alone(found, job.context)
        if not alone or found.place.scope.outer is not None:
            continue
        sizes = (math.prod(job.context.shapes.get(name, ())) for name in (found.input, found.output))
        needed = sum(sizes) * found.site.dtype.itemsize
        if group and size + needed > PROBE_BYTES:
            yield group
            group, size = [], 0
        group.append(found)
        size += needed
    if group:
        yield group
