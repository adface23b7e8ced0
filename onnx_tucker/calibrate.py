"""Chains fitted to data, node after node: each makes up for what the ones before it have changed.

A node's chain is fitted to what the original node gives for the original's input, from the input that the factorised
nodes before it give ("asymmetric": Zhang, Zou, He and Sun, "Accelerating Very Deep Convolutional Networks for
Classification and Detection", TPAMI 2016, section 3.3). Activations are read off the models batch by batch, at
positions drawn at random, and only their moments are kept.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.fit import Goal, fit
from onnx_tucker.factor.moments import RIDGES, Moments, Samples, Statistics, ridge
from onnx_tucker.factor.patches import count, outputs, patches
from onnx_tucker.graph import layer
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.lower.layout import is_main
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.splice import splice, store
from onnx_tucker.job import Job
from onnx_tucker.menu import members
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.types import Array, Candidate, Chain, Site, Stage

logger = logging.getLogger(__name__)

ROWS, VALUES = 40_000, 5e7
"""Output positions that a layer is fitted to at most, and the values that they see together."""
WIDE_ROWS, WIDE_VALUES = 4096, 2.5e7
"""The same where the rows are kept, as they are fewer than the values that one of them sees."""
FEW, SHRINKS = 64, (None, 0.3, 0.9, 1.0)
"""Samples from which on a second moment is trusted, and how far it may else be shrunk: wholly is no data at all.

A node that sees fewer positions than that is not fitted: 16 rows misled the first matrix of the thesis network.
"""
CHUNK = 2**22
"""Values of patches that are held at the same time."""


@dataclass(frozen=True, eq=False)
class _Prefix:
    """The model with the chains that are fitted so far."""

    planned: dict[str, Candidate]
    weights: dict[str, list[onnx.TensorProto]]

    def model(self, job: Job) -> onnx.ModelProto:
        if not self.planned:
            return job.model
        weights = {label: list(tensors) for label, tensors in self.weights.items()}
        return splice(job.model, self.planned, weights, job.found, job.context)


def usable(job: Job) -> bool:
    """Whether there is data to fit to."""
    return job.inputs is not None and job.inputs.kind == "data" and job.session is not None


def fitted(job: Job, leaders: Sequence[Found], planned: Mapping[str, Candidate]) -> Iterator[Chain]:
    """The chains of nodes, fitted to the data where that is possible, else decomposed by their weights alone.

    Args:
        job: the run, with data.
        leaders: the nodes in the order of the graph; of those that share a weight, the first.
        planned: what nodes become, by label.
    """
    prefix, names = _Prefix({}, {}), Names(job.model)
    for found in leaders:
        candidate = planned[found.place.label]
        if candidate.method is None:
            yield decomposed(found.site, candidate)
            continue
        chain = _fitted(job, found, candidate, prefix)
        yield chain
        direct = replace(candidate, form="direct")
        group = members(job, found)
        prefix.planned.update(dict.fromkeys(group, direct))
        prefix.weights.update(dict.fromkeys(group, store(found, direct, chain, names)))


def decomposed(site: Site, candidate: Candidate) -> Chain:
    """The chain of a candidate by the weight alone, factors in float64."""
    weight = site.read()
    if candidate.method is None or candidate.ranks is None:
        return Chain(candidate.stages, (weight,))
    return METHODS[candidate.method].chain(weight, site.stage, candidate.ranks)


def goals(job: Job, found: Found) -> list[Goal] | None:
    """What a node's weight does on the original's inputs; None where that is not known."""
    if _obstacle(job, found):
        return None
    try:
        halves = _halves(job, found, job.model)
    except FAILURES as error:
        logger.info("%s: its inputs are not known: %s", found.place.label, first_line(error))
        return None
    known = halves[0] + halves[1]
    return known.goals(found.site.read(), RIDGES[-1], bias=found.site.bias) if known.rows else None


def _fitted(job: Job, found: Found, candidate: Candidate, prefix: _Prefix) -> Chain:
    site, obstacle = found.site, _obstacle(job, found)
    if not obstacle:
        try:
            halves = _halves(job, found, prefix.model(job))
        except FAILURES as error:
            obstacle = first_line(error)
    if not obstacle and min(half.rows for half in halves) < FEW // 2:
        obstacle = f"the data gives it fewer than {FEW} finite positions"
    if obstacle:
        logger.info("%s is factorised by its weight alone: %s", site.name, obstacle)
        return decomposed(site, candidate)
    weight, bias, known = site.read(), site.bias, halves[0] + halves[1]
    strength = ridge(*halves, weight, bias=bias)

    def chain_of(rows: Statistics, shrink: float | None) -> Chain:
        goals = rows.goals(weight, strength, bias=bias, shrink=shrink)
        return fit(METHODS[candidate.method or ""], site.stage, candidate.ranks or (), goals)

    def held_out(shrink: float | None) -> float:
        """The loss of a chain that is fitted to one half of the samples, on the other."""
        pairs = (halves, halves[::-1])
        return sum(b.loss(np.split(reconstruct(chain_of(a, shrink)), site.stage.groups), bias=bias) for a, b in pairs)

    assert job.inputs is not None
    few = job.inputs.samples < FEW or known.rows < 4 * site.stage.inp * site.stage.window.volume
    shrink = min(SHRINKS, key=held_out) if few else None
    chain = chain_of(known, shrink)
    logger.info("%s: fitted to %d rows, ridge %g, shrinkage %s", site.name, known.rows, strength, shrink)
    return replace(chain, bias=_bias(job, found, halves, known, reconstruct(chain))) if bias else chain


def _bias(job: Job, found: Found, halves: tuple[Statistics, Statistics], known: Statistics, weight: Array) -> Array:
    """The bias that makes up for what a weight has changed in the mean, as far as both halves of the samples agree.

    The part that is taken of it is the one at which each half predicts the other best.
    """
    stage, constant = found.site.stage, job.context.constant(found.place, 2)
    assert constant is not None
    own = np.broadcast_to(constant.read().astype(np.float64).ravel(), stage.groups * stage.out)
    one, other = (half.bias(weight) - own for half in halves)
    sizes = float(one @ one + other @ other)
    agreed = float(np.clip(2 * (one @ other) / sizes, 0.0, 1.0)) if sizes else 0.0
    return own + agreed * (known.bias(weight) - own)


def _obstacle(job: Job, found: Found) -> str:
    """Why a node cannot be fitted to data; empty where it can be."""
    site, window = found.site, found.site.stage.window
    if not is_main(found.place):
        return "it is in a body, or fused"
    if len(members(job, found)) > 1:
        return "its weight is that of several nodes"
    added = job.context.constant(found.place, 2) if site.bias else None
    if site.bias and (added is None or math.prod(added.shape[:-1]) != 1):
        return "what it adds is no constant vector"
    if site.scalings:
        return "it scales its output"
    if window.transposed and (window.auto_pad != "NOTSET" or window.output_shape):
        return "its pads depend on the size of the output"
    if site.stage.groups > 1 and not window.kernel:
        return "its weight is a batch of matrices"
    return ""


def _halves(job: Job, found: Found, prefix: onnx.ModelProto) -> tuple[Statistics, Statistics]:
    """What is known of a node's rows on two halves of the samples."""
    assert job.inputs is not None
    stage, feeds, samples = found.site.stage, job.inputs.feeds, job.inputs.samples
    taken = _reader(job, prefix, layer.activations(found))
    given = _reader(job, job.model, found.place.node.output[0])
    rng, left_out, before = np.random.default_rng(job.settings.seed), 0, 0
    halves: list[Statistics] = []
    for feed in feeds:
        x, y = found.seat.inputs(taken(feed)), found.seat.outputs(given(feed))
        window = stage.window if stage.window.transposed else stage.window.explicit(x.shape[2:])
        if not halves:
            kind, limit = _kind(stage, len(feeds) * count(y))
            halves = [kind.none(stage) for _ in range(2)]
        rows = rng.permutation(count(y))[: max(1, limit // len(feeds))]
        batch = job.inputs.batch(feed)
        sample = before + rows * batch // count(y) if samples > 1 else rng.integers(2, size=len(rows))
        before += batch
        for half, known in enumerate(halves):
            left_out += _add(known, replace(stage, window=window), x, y, np.sort(rows[sample % 2 == half]))
    if left_out:
        logger.warning("%s: %d positions of the data are not finite and are left out.", found.place.label, left_out)
    return halves[0], halves[1]


def _kind(stage: Stage, available: int) -> tuple[type[Moments] | type[Samples], int]:
    """What is kept of rows, and of how many."""
    width = stage.inp * stage.window.volume
    rows = min(ROWS, available, int(VALUES / (stage.groups * width)))
    if rows >= width:
        return Moments, rows
    return Samples, min(WIDE_ROWS, available, int(WIDE_VALUES / (stage.groups * width)))


def _reader(job: Job, model: onnx.ModelProto, name: str) -> Callable[[Feed], Array]:
    """Reads one value off a model."""
    assert job.inputs is not None
    if name in job.inputs.feeds[0]:
        return lambda feed: feed[name]
    session = job.stopwatch.machine.session(layer.probe(model, [name]), job.folder)
    options = ort.RunOptions()
    options.only_execute_path_to_fetches = True
    return lambda feed: np.asarray(session.run([name], dict(feed), options)[0])


def _add(known: Statistics, stage: Stage, x: Array, y: Array, rows: NDArray[np.int64]) -> int:
    left_out, step = 0, max(1, CHUNK // (stage.groups * stage.inp * stage.window.volume))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        left_out += known.add(patches(stage, x, part), outputs(stage, y, part))
    return left_out
