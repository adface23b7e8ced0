"""The error of a node over its cost, for all methods at many ranks.

With data the errors are those of its outputs on other samples than those that are fitted to, and how much of them
arrives at the model's outputs is tried; without, they are those of its weight.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import repeat

import numpy as np
from joblib import Parallel, delayed

from onnx_tucker.cost import FLOPS, chain_cost, weight_count
from onnx_tucker.factor import METHODS, Method, Spectra, reconstruct
from onnx_tucker.factor.fit import STEPS, Goal, fit, step_work
from onnx_tucker.factor.metric import Dense
from onnx_tucker.factor.unfold import lost_share
from onnx_tucker.factor.weighted import Weighted
from onnx_tucker.fitting import calibrate, trust
from onnx_tucker.fitting.calibrate import Goals, Half
from onnx_tucker.graph.external import byte_size
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import excluded
from onnx_tucker.rank.policy import rounded_up
from onnx_tucker.rank.search import BLOCKS
from onnx_tucker.search.curve import Curve, Point, worthwhile
from onnx_tucker.search.sensitivity import Probe, probe_of, sensitivity
from onnx_tucker.types import Array, Ranks, Stage

logger = logging.getLogger(__name__)

LAYER_BYTES, WINDOW_BYTES, AXIS_BYTES, BIAS_BYTES = 82, 77, 11, 24
"""What each layer of a chain takes in a file besides its weight, its window, each axis of that, and another bias."""
LAYER_NAMES, BIAS_NAMES = 7, 3
"""How often a chain has the names of its node and of its method, for each layer and for another bias: in theirs, in
those of values and of weights, and where they are noted."""
LEVELS = 32
"""Points of a curve for each method."""
LOSSES = (1e-5, 0.8)
"""Shares of the energy that the modes of a method with several may lose."""
FITS, FITTING = 16, 3e11
"""Fits of a method, at most, that tell errors at some points, and the multiplications that they may take together."""


def curves(
    job: Job, quantities: Sequence[str], groups: Sequence[list[Found]], *, blind: bool = False
) -> Iterator[Curve]:
    """The curves of nodes in the order of the graph, together those that share a weight.

    Args:
        job: the run.
        quantities: what costs, of "flops", "params" and "bytes".
        groups: nodes that share a weight.
        blind: leaves the data out of it.
    """
    keys = [job.key("curve", quantities, blind, [found.label for found in group]) for group in groups]
    known = [_recalled(job, key, group) for key, group in zip(keys, groups, strict=True)]
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


def _recalled(job: Job, key: str, group: list[Found]) -> Curve | None:
    """A curve that is remembered."""
    recalled = job.memory.recall(key)
    if recalled is None:
        return None
    points, weight = recalled.value
    made = [Point(**{**p, "ranks": None if p["ranks"] is None else tuple(p["ranks"])}) for p in points]
    return Curve(group, made, weight)


def _seen(
    job: Job, groups: Sequence[list[Found]], *, blind: bool
) -> Iterator[tuple[list[Found], Goals | None, Probe | None]]:
    """Groups with what their weights do on the data, and what it is tried on how far that carries, where it counts."""
    if blind or not groups:
        yield from ((group, None, None) for group in groups)
        return
    known: Iterator[Goals | None] = repeat(None)
    probe = probe_of(job) if trust.usable(job) else None
    if probe is not None or job.settings.statistics is not None:
        known = calibrate.goals(job, [group[0] for group in groups])
    for group, goals in zip(groups, known, strict=False):
        yield group, goals, probe


def cost_as_is(job: Job, quantity: str, group: Sequence[Found]) -> float:
    """What nodes cost as they are; of those that share a weight, its parameters once."""
    if quantity == "flops":
        convention = FLOPS[job.settings.flops]
        return sum(convention(f.reading.layer) for f in group if f.reading.layer)
    reading = group[0].reading
    if group[0].group != group[0].label:
        return 0.0
    if quantity == "bytes":  # of all that goes with them, as it is stored, which may be as integers
        constants = job.context.constants
        freed = constants.freed([f.reading.seat.weight.value for f in group if f.reading.seat])
        return float(sum(byte_size(tensor) for tensor in constants.stored(freed)))
    return float(reading.params or 0)


def _curve(job: Job, quantities: Sequence[str], group: list[Found], goals: Goals | None, probe: Probe | None) -> Curve:
    found = group[0]
    site, kept = found.site, Point({quantity: cost_as_is(job, quantity, group) for quantity in quantities}, 0.0)
    if excluded(job.settings, group):
        return Curve(group, [kept])
    weight = site.read()
    spectra = Weighted(weight, goals.whole) if goals else Spectra(weight, site.stage.groups)
    points = [kept]
    for method in METHODS.values():
        if method.applies(site.stage):
            grid = _grid(method, found, spectra)
            errors = [method.error_bound(spectra, ranks) ** 2 for ranks in grid]
            if goals and grid:
                errors = _corrected(method, site.stage, grid, errors, goals)
            costs = [_costs(job, quantities, group, method, ranks) for ranks in grid]
            points += [Point(cost, e, method.name, r) for cost, e, r in zip(costs, errors, grid, strict=True)]
    points = worthwhile(found, points)
    if goals is None or probe is None:
        return Curve(group, points)
    return Curve(group, points, sensitivity(job, found, goals, points, probe))


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
    method: Method, stage: Stage, grid: Sequence[Ranks], bounds: Sequence[float], goals: Goals
) -> list[float]:
    """The squared errors on other samples at all ranks: found at some of them, and between those as far from the bound.

    Args:
        method: the decomposition.
        stage: the site as the only stage of a chain.
        grid: the ranks.
        bounds: of the squared errors on the samples that chains are fitted to.
        goals: what chains are fitted to.
    """
    work = len(goals.whole) * len(method.terms) * STEPS * step_work((stage.out, stage.inp * stage.window.volume))
    each = max(1, len(goals.halves))
    number = int(np.clip(FITTING / (work * each), 1, min(FITS // each, len(grid))))
    tried = sorted({int(i) for i in (np.arange(number) + 0.5) * len(grid) / number})
    ratios = []
    for i in tried:
        error = bounds[i]
        if goals.halves:
            error = _between(goals.halves, [_fitted(method, stage, grid[i], half.goals) for half in goals.halves])
        elif not method.closed and all(isinstance(goal.metric, Dense) for goal in goals.whole):
            error = goals.missed(_fitted(method, stage, grid[i], goals.whole))
        ratios.append(error / max(bounds[i], 1e-12))
    between = np.exp(np.interp(range(len(grid)), tried, np.log(np.maximum(ratios, 1e-12))))
    return [float(bound * ratio) for bound, ratio in zip(bounds, between, strict=True)]


def _between(halves: Sequence[Half], weights: Sequence[Array]) -> float:
    """The squared error on other samples of chains that are fitted to all, from chains that are fitted to each half.

    A fit to a half misses e - o of its own samples and e + o of the others, where o falls with their number: a fit to
    all has half of that, and misses e + o / 2 = (own + 3 others) / 4 of samples that it was not fitted to.
    """
    pairs = zip(halves, weights, reversed(weights), strict=True)
    return float(np.mean([(half.missed(own) + 3 * half.missed(others)) / 4 for half, own, others in pairs]))


def _fitted(method: Method, stage: Stage, ranks: Ranks, goals: Sequence[Goal]) -> Array:
    return reconstruct(fit(method, stage, ranks, goals, 1))


def _rank(values: Array, full: int, loss: float) -> int:
    return next(rank for rank in range(1, full + 1) if rank == full or lost_share(values, rank) <= loss)


def _costs(
    job: Job, quantities: Sequence[str], group: Sequence[Found], method: Method, ranks: Ranks
) -> dict[str, float]:
    costs = [chain_cost(f.site, method.stages(f.site.stage, ranks), job.settings.flops) for f in group]
    params = float(costs[0].params)  # the group shares them
    known = {
        "flops": float(sum(cost.flops or 0 for cost in costs)),
        "params": params,
        "bytes": params * group[0].site.dtype.itemsize + sum(_notes(job, found, method, ranks) for found in group),
    }
    return {quantity: known[quantity] for quantity in quantities}


def _notes(job: Job, found: Found, method: Method, ranks: Ranks) -> int:
    """Bytes that a chain takes in a file more than its node, but for its weights."""
    stage, biased = found.site.stage, trust.usable(job) and (found.site.bias or found.reading.added is not None)
    layers, axes = len(method.stages(stage, ranks)), len(stage.window.kernel)
    each = LAYER_BYTES + (WINDOW_BYTES + AXIS_BYTES * axes if axes else 0)
    names = (LAYER_NAMES * layers - 1) * len(found.label) + (LAYER_NAMES * layers - BIAS_NAMES) * len(method.name)
    bias = BIAS_BYTES + BIAS_NAMES * (len(found.label) + len(method.name)) if biased else 0
    return layers * each + names + bias - found.place.node.ByteSize()
