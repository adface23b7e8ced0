"""How far the error of one node carries: what it does alone to the model's outputs."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx

from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.fit import fit
from onnx_tucker.fitting.calibrate import Goals
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.piece import store
from onnx_tucker.graph.segment import probe
from onnx_tucker.graph.splice import splice
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import members, shared
from onnx_tucker.planning.ways import quick, untouched
from onnx_tucker.runtime.batches import some
from onnx_tucker.runtime.fidelity import relative_l2
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.search.curve import Point
from onnx_tucker.types import Candidate, Chain

logger = logging.getLogger(__name__)

PROBED = 0.25
"""The relative error of a node's output at which it is tried what that does to the model's outputs."""
PROBE_MACS, PROBES_MACS, PROBE_SAMPLES = 1.5e10, 3.5e11, 4
"""The multiplications of the model that such a trial may take, and all of them; it is of so many samples at least."""


class Probe(NamedTuple):
    """On what it is tried how far errors carry.

    Attributes:
        feed: an input of the model.
        outputs: what models are judged by, of the original on that.
        framed: the nodes that take less time on frames, where the others leave them there.
        weights: those of these nodes.
        names: gives out new names.
    """

    feed: Feed
    outputs: Sequence[Any]
    framed: Mapping[str, Candidate]
    weights: Mapping[str, list[onnx.TensorProto]]
    names: Names


def probe_of(job: Job) -> Probe | None:
    """On what it is tried how far errors carry: some samples, or a batch where the model takes no others."""
    assert job.inputs is not None
    if job.judged is None:
        return None
    fit = job.inputs.fit
    samples = max(PROBE_SAMPLES, job.samples_for(min(PROBE_MACS, PROBES_MACS / len(job.found))))
    part = some(fit.feeds[0], fit.along, slice(samples))
    try:
        outputs = job.judged.run(part)
    except FAILURES as error:
        logger.info("the model does not run on a part of a batch: %s", first_line(error))
        part = fit.feeds[0]
        outputs = job.judged.run(part)
    names = Names(job.model)
    planned, weights = dict[str, Candidate](), dict[str, list[onnx.TensorProto]]()
    for found in job.found:
        if found.is_layer and not shared(job, found):
            candidate = quick(job.context, found, untouched(found))
            if candidate.changes:
                label, chain = found.label, Chain(candidate.stages, (found.site.read(),))
                planned[label], weights[label] = candidate, store(found, candidate, chain, names)
    return Probe(part, outputs, planned, weights, names)


def sensitivity(job: Job, found: Found, goals: Goals, points: Sequence[Point], on: Probe) -> float:
    """How much of a node's squared relative error arrives at the model's outputs; tried at a moderate one."""
    if len(points) < 2:
        return 1.0
    point = min(points[1:], key=lambda p: abs(p.error - PROBED**2))
    method, ranks, stage = METHODS[point.method or ""], point.ranks or (), found.site.stage
    chain = fit(method, stage, ranks, goals.whole, 1)
    lost = goals.missed(reconstruct(chain))
    candidate = Candidate(method.name, ranks, chain.stages)
    try:
        content = _alone(job, found, candidate, chain, on)
        session = job.open(content, arena=False)
        other = session.run(None, dict(on.feed))
    except FAILURES as error:
        logger.info("%s: its effect on the outputs is not measured: %s", found.label, first_line(error))
        return 1.0
    pairs = zip(on.outputs, other, strict=True)
    errors = [relative_l2(a, b) for a, b in pairs if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    known = [error**2 for error in errors if error is not None]
    if not known:  # outputs may be of other shapes each time
        return 1.0
    arrived = float(np.mean(known))
    logger.info("%s: an error of %.3g becomes %.3g", found.label, lost**0.5, arrived**0.5)
    return arrived / lost if lost > 0 else 1.0


def _alone(job: Job, found: Found, candidate: Candidate, chain: Chain, on: Probe) -> bytes:
    """The model with one chain in it."""
    labels = members(job, found)
    if not shared(job, found):
        candidate = quick(job.context, found, candidate)
    stored = store(found, candidate, chain, on.names)
    planned = {**on.framed, **dict.fromkeys(labels, candidate)}
    weights = {**on.weights, **dict.fromkeys(labels, stored)}
    assert job.judged is not None
    return probe(splice(job.model, planned, weights, job.found, job.context), job.judged.names)
