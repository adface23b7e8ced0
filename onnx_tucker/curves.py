"""The error of a node over its cost, for all methods at many ranks.

With data the errors are those of its outputs, and how much of them arrives at the model's outputs is tried; without,
they are those of its weight.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
import onnx
from joblib import Parallel, delayed

from onnx_tucker import calibrate, trust
from onnx_tucker.cost import FLOPS, chain_cost, weight_count
from onnx_tucker.factor import METHODS, Method, Spectra, reconstruct
from onnx_tucker.factor.fit import STEPS, Goal, fit, step_work
from onnx_tucker.factor.metric import Dense
from onnx_tucker.factor.unfold import lost_share
from onnx_tucker.factor.weighted import Weighted
from onnx_tucker.graph.external import byte_size
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.piece import store
from onnx_tucker.graph.splice import splice
from onnx_tucker.job import Job
from onnx_tucker.menu import excluded, members
from onnx_tucker.rank.policy import rounded_up
from onnx_tucker.rank.search import BLOCKS
from onnx_tucker.runtime.batches import some
from onnx_tucker.runtime.fidelity import relative_l2
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.tuning import Option, quick, untouched
from onnx_tucker.types import Array, Candidate, Chain, Ranks, Site, Stage

logger = logging.getLogger(__name__)

COUNTED = ("flops", "params", "bytes")
"""The quantities that are known without measuring; bytes are those of the weights, and about those of further nodes."""
NODE_BYTES = 400
"""What a node of a chain takes in a file besides its weight: its own name, those of its values, its attributes."""
LEVELS = 32
"""Points of a curve for each method."""
LOSSES = (1e-5, 0.8)
"""Shares of the energy that the modes of a method with several may lose."""
FITS, FITTING = 8, 1e11
"""Points of a method, at most, whose error is that of a fit, and the multiplications that they may take together."""
PROBED = 0.25
"""The relative error of a node's output at which it is tried what that does to the model's outputs."""
PROBE_MACS, PROBES_MACS, PROBE_SAMPLES = 1.5e10, 3.5e11, 4
"""The multiplications of the model that such a trial may take, and all of them; it is of so many samples at least."""


@dataclass(frozen=True)
class Point:
    """One way to compute a node; no method keeps its weight.

    Attributes:
        costs: by the name of each quantity that counts.
        error: the square of the relative error of its output, or without data of its weight.
        method: name in `factor.METHODS`.
        ranks: one for each of the method's modes.
    """

    costs: Mapping[str, float]
    error: float
    method: str | None = None
    ranks: Ranks | None = None

    def beats(self, other: Point) -> bool:
        """Whether it is no worse in anything, and better in something."""
        cheaper = all(self.costs[quantity] <= cost for quantity, cost in other.costs.items())
        return cheaper and self.error <= other.error and (self.costs, self.error) != (other.costs, other.error)


@dataclass(frozen=True, eq=False)
class Curve:
    """The points of nodes that share a weight, the nodes as they are first.

    Attributes:
        group: the nodes.
        points: the ways to compute them.
        weight: how much their error counts.
        options: the forms of the points, where they are timed.
        kept: why the nodes stay as they are, where chains of them were left out.
    """

    group: list[Found]
    points: list[Point]
    weight: float = 1.0
    options: Sequence[Option] = ()
    kept: str = ""

    def filled(self, block: int) -> Curve:
        """The same with no ranks but those that fill blocks of channels, and smaller ones.

        Others take a convolution out of the layout of its neighbours, which may cost more time than they save.
        """
        return replace(self, points=[point for point in self.points if _fills(self.group[0], point, block)])


class Probe(NamedTuple):
    """On what it is tried how far errors carry.

    Attributes:
        feed: an input of the model.
        outputs: those of the model on that.
        framed: the nodes that take less time on frames, where the others leave them there.
        weights: those of these nodes.
        names: gives out new names.
    """

    feed: Feed
    outputs: Sequence[Any]
    framed: Mapping[str, Candidate]
    weights: Mapping[str, list[onnx.TensorProto]]
    names: Names


def curves(
    job: Job, quantities: Sequence[str], groups: Sequence[list[Found]], *, blind: bool = False
) -> Iterator[Curve]:
    """The curves of nodes in the order of the graph, together those that share a weight.

    Args:
        job: the run.
        quantities: what costs, of `COUNTED`.
        groups: nodes that share a weight.
        blind: leaves the data out of it.
    """
    keys = [job.key("curve", quantities, blind, [found.place.label for found in group]) for group in groups]
    known = [_recalled(job, key, quantities, group) for key, group in zip(keys, groups, strict=True)]
    missing = [group for group, curve in zip(groups, known, strict=True) if curve is None]
    run = Parallel(n_jobs=job.settings.jobs, require="sharedmem", return_as="generator", pre_dispatch="n_jobs")
    made = run(delayed(_curve)(job, quantities, *about) for about in _seen(job, missing, blind=blind))
    for key, curve in zip(keys, known, strict=True):
        if curve is not None:
            yield curve
            continue
        fresh = next(made)
        job.memory.remember(key, [[asdict(point) for point in fresh.points], fresh.weight])
        yield fresh


def _recalled(job: Job, key: str | None, quantities: Sequence[str], group: list[Found]) -> Curve | None:
    """A curve that is remembered."""
    recalled = job.memory.recall(key)
    if recalled is None:
        return None
    try:
        points, weight = recalled.value
        made = [Point(**{**p, "ranks": None if p["ranks"] is None else tuple(p["ranks"])}) for p in points]
        if not made or made[0].method or any(set(point.costs) != set(quantities) for point in made):
            raise ValueError("it has other points")
        return Curve(group, made, float(weight))
    except (TypeError, KeyError, ValueError) as error:
        logger.info("a remembered curve is not used: %s", error)
        return None


def _seen(
    job: Job, groups: Sequence[list[Found]], *, blind: bool
) -> Iterator[tuple[list[Found], list[Goal] | None, Probe | None]]:
    """Groups with what their weights do on the data, and what it is tried on how far that carries, where it counts."""
    if blind or not groups:
        yield from ((group, None, None) for group in groups)
        return
    known: Iterator[list[Goal] | None] = repeat(None)
    probe = _probe(job) if trust.usable(job) else None
    if probe is not None or job.settings.statistics is not None:
        known = calibrate.goals(job, [group[0] for group in groups])
    for group, goals in zip(groups, known, strict=False):
        yield group, goals, probe


def whole(job: Job, quantity: str, group: Sequence[Found]) -> float:
    """What nodes cost as they are; of those that share a weight, its parameters once."""
    if quantity == "flops":
        convention = FLOPS[job.settings.flops]
        return sum(convention(f.reading.layer) for f in group if f.reading.layer)
    reading = group[0].reading
    if group[0].group != group[0].place.label:
        return 0.0
    if quantity == "bytes":  # of all that goes with them, as it is stored, which may be as integers
        constants = job.context.constants
        freed = constants.freed([f.reading.seat.weight.value for f in group if f.reading.seat])
        return float(sum(byte_size(tensor) for tensor in constants.stored(freed)))
    return float(reading.params or 0)


def _curve(
    job: Job, quantities: Sequence[str], group: list[Found], goals: list[Goal] | None, probe: Probe | None
) -> Curve:
    found = group[0]
    site, kept = found.site, Point({quantity: whole(job, quantity, group) for quantity in quantities}, 0.0)
    if excluded(job.settings, group):
        return Curve(group, [kept])
    weight = site.read()
    spectra = Weighted(weight, goals) if goals else Spectra(weight, site.stage.groups)
    points = [kept]
    for method in METHODS.values():
        if method.applies(site.stage):
            grid = _grid(method, found, spectra)
            errors = [method.error_bound(spectra, ranks) ** 2 for ranks in grid]
            if goals and all(isinstance(goal.metric, Dense) for goal in goals) and not method.closed and grid:
                errors = _corrected(method, site.stage, grid, errors, goals)
            costs = [_costs(job, quantities, group, method, ranks) for ranks in grid]
            points += [Point(cost, e, method.name, r) for cost, e, r in zip(costs, errors, grid, strict=True)]
    points = _worthwhile(found, points)
    if goals is None or probe is None:
        return Curve(group, points)
    return Curve(group, points, _sensitivity(job, found, goals, points, probe))


def _grid(method: Method, found: Found, spectra: Spectra) -> list[Ranks]:
    """Ranks of a method, from the smallest to those that save nothing, or where it has several modes, to nearly full.

    Of several modes all lose the same share. Besides, there are all that fill blocks of channels.
    """
    stage = found.site.stage
    sizes = method.dimensions(stage)
    tried: list[Ranks] = [(1,) * len(sizes)]
    if len(sizes) == 1:
        own, each = (weight_count(stages) for stages in ((stage,), method.stages(stage, (1,))))
        most = min(sizes[0], max(1, own // each))
        low = (2**i for i in range(most.bit_length()) if 2**i < most / LEVELS)
        tried += [(rank,) for rank in (*low, *(max(1, round(most * (i + 1) / LEVELS)) for i in range(LEVELS)))]
    else:
        values = [spectra.of(mode) for mode in method.modes]
        losses = np.geomspace(*LOSSES, LEVELS)
        tried += [tuple(_rank(v, n, loss) for v, n in zip(values, sizes, strict=True)) for loss in losses]
    filled = (rounded_up(stage, method, ranks, block) for ranks in tried for block in BLOCKS)
    return sorted({*tried, *filled} - {sizes})


def _corrected(
    method: Method, stage: Stage, grid: Sequence[Ranks], bounds: Sequence[float], goals: Sequence[Goal]
) -> list[float]:
    """The squared errors at all ranks: of fits at some of them, and between those as far below the bound.

    Not for goals of few rows, to which a fit comes closer than to others.
    """
    work = len(goals) * len(method.terms) * STEPS * step_work((stage.out, stage.inp * stage.window.volume))
    number = int(np.clip(FITTING / work, 1, min(FITS, len(grid))))
    tried = sorted({int(i) for i in (np.arange(number) + 0.5) * len(grid) / number})
    ratios = []
    for i in tried:
        lost, total = missed(goals, fit(method, stage, grid[i], goals, 1))
        ratios.append(lost / total / max(bounds[i], 1e-12) if total else 1.0)
    between = np.exp(np.interp(range(len(grid)), tried, np.log(np.maximum(ratios, 1e-12))))
    return [float(bound * ratio) for bound, ratio in zip(bounds, between, strict=True)]


def missed(goals: Sequence[Goal], chain: Chain) -> tuple[float, float]:
    """The squared error of a chain's outputs, and the mean square of the outputs themselves."""
    parts = np.split(reconstruct(chain), len(goals))
    lost = sum(g.loss(part.reshape(g.target.shape)) for g, part in zip(goals, parts, strict=True))
    return lost, sum(g.loss(np.zeros_like(g.target)) for g in goals)


def _rank(values: Array, full: int, loss: float) -> int:
    return next(rank for rank in range(1, full + 1) if rank == full or lost_share(values, rank) <= loss)


def undominated(points: Sequence[Point]) -> list[Point]:
    """The node as it is, and the points that save something and that no other beats, the cheapest first."""
    kept: list[Point] = []
    for point in sorted(points[1:], key=_cost_first):
        saves = any(cost < points[0].costs[quantity] for quantity, cost in point.costs.items())
        if saves and not any(other.beats(point) for other in (*kept, points[0])):
            kept.append(point)
    return [points[0], *kept]


def _worthwhile(found: Found, points: Sequence[Point]) -> list[Point]:
    """The same, and of the points that fill blocks of channels those that no other such point beats."""
    kept = undominated(points)
    for block in BLOCKS:
        filled = undominated([point for point in points if _fills(found, point, block)])
        kept += [point for point in filled if point not in kept]
    return [kept[0], *sorted(kept[1:], key=_cost_first)]


def _cost_first(point: Point) -> tuple[float, ...]:
    return (*point.costs.values(), point.error)


def _fills(found: Found, point: Point, block: int) -> bool:
    """Whether the ranks of a point fill blocks of channels, or are smaller than one."""
    if point.method is None or point.ranks is None or max(point.ranks) <= block:
        return True
    return rounded_up(found.site.stage, METHODS[point.method], point.ranks, block) == point.ranks


def _probe(job: Job) -> Probe | None:
    """On what it is tried how far errors carry: some samples, or a batch where the model takes no others."""
    assert job.inputs is not None
    if job.session is None:
        return None
    fit = job.inputs.fit
    samples = max(PROBE_SAMPLES, job.samples_for(min(PROBE_MACS, PROBES_MACS / len(job.found))))
    part = some(fit.feeds[0], fit.along, slice(samples))
    try:
        outputs = job.session.run(None, dict(part))
    except FAILURES as error:
        logger.info("the model does not run on a part of a batch: %s", first_line(error))
        part = fit.feeds[0]
        outputs = job.session.run(None, dict(part))
    names = Names(job.model)
    planned, weights = dict[str, Candidate](), dict[str, list[onnx.TensorProto]]()
    for found in job.found:
        if isinstance(found.reading.found, Site) and len(members(job, found)) == 1:
            candidate = quick(job.context, found, untouched(found))
            if candidate.changes:
                label, chain = found.place.label, Chain(candidate.stages, (found.site.read(),))
                planned[label], weights[label] = candidate, store(found, candidate, chain, names)
    return Probe(part, outputs, planned, weights, names)


def _sensitivity(job: Job, found: Found, goals: Sequence[Goal], points: Sequence[Point], probe: Probe) -> float:
    """How much of a node's squared relative error arrives at the model's outputs; tried at a moderate one."""
    if len(points) < 2:
        return 1.0
    point = min(points[1:], key=lambda p: abs(p.error - PROBED**2))
    method, ranks, stage = METHODS[point.method or ""], point.ranks or (), found.site.stage
    chain = fit(method, stage, ranks, goals, 1)
    lost, total = missed(goals, chain)
    candidate = Candidate(method.name, ranks, chain.stages, 0.0)
    try:
        session = job.stopwatch.machine.session(_alone(job, found, candidate, chain, probe), job.folder)
        other = session.run(None, dict(probe.feed))
    except FAILURES as error:
        logger.info("%s: its effect on the outputs is not measured: %s", found.place.label, first_line(error))
        return 1.0
    pairs = zip(probe.outputs, other, strict=True)
    errors = [relative_l2(a, b) for a, b in pairs if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    known = [error**2 for error in errors if error is not None]
    if not known:  # outputs may be of other shapes each time
        return 1.0
    arrived = float(np.mean(known))
    logger.info("%s: an error of %.3g becomes %.3g", found.place.label, (lost / total) ** 0.5, arrived**0.5)
    return arrived * total / lost if lost > 0 else 1.0


def _alone(job: Job, found: Found, candidate: Candidate, chain: Chain, probe: Probe) -> bytes:
    """The model with one chain in it."""
    labels = members(job, found)
    if len(labels) == 1:
        candidate = quick(job.context, found, candidate)
    stored = store(found, candidate, chain, probe.names)
    planned = {**probe.framed, **dict.fromkeys(labels, candidate)}
    weights = {**probe.weights, **dict.fromkeys(labels, stored)}
    return splice(job.model, planned, weights, job.found, job.context).SerializeToString(deterministic=True)


def _costs(
    job: Job, quantities: Sequence[str], group: Sequence[Found], method: Method, ranks: Ranks
) -> dict[str, float]:
    costs = [chain_cost(f.site, method.stages(f.site.stage, ranks), job.settings.flops) for f in group]
    params = float(costs[0].params)  # the group shares them
    further = len(group) * (len(method.stages(group[0].site.stage, ranks)) - 1)
    known = {
        "flops": float(sum(cost.flops or 0 for cost in costs)),
        "params": params,
        "bytes": params * group[0].site.dtype.itemsize + NODE_BYTES * further,
    }
    return {quantity: known[quantity] for quantity in quantities}
