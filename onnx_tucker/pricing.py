"""Decides what becomes of every node: candidates from the rank policy, prices from measurement."""

from __future__ import annotations

import fnmatch
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx_tucker import rank
from onnx_tucker.errors import PlanError
from onnx_tucker.factor import METHODS
from onnx_tucker.graph import layer
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.rank import Rules, search
from onnx_tucker.runtime.inputs import NOISE_VALUES
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.runtime.timing import Timing
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate, Choice, Plan, Skip

logger = logging.getLogger(__name__)

FORM = "direct"
LAYER_SECONDS = 0.4
"""Time spent at most on one layer and its candidates."""


@dataclass(frozen=True)
class Price:
    """Measured times of a node alone; `after` is None where it is not factorised."""

    before: Timing
    after: Timing | None = None


@dataclass(frozen=True)
class Decision:
    """The plan, and what was measured on the way, by node."""

    plan: Plan
    prices: Mapping[str, Price]


def decide(job: Job, rules: Rules) -> Decision:
    """Chooses for every weight-bearing node by the rules, in the order of the graph.

    Raises:
        PlanError: the rules name a node that is not there, or ranks that do not fit it.
    """
    unused = rules.unused({f.place.label for f in job.found})
    if unused:
        raise PlanError(f"The ranks file names {unused[0]!r}, but the model has no such linear node.")
    _check_globs(job)
    choices: dict[str, Choice] = {}
    prices: dict[str, Price] = {}
    for label, group in _groups(job).items():
        job.progress("choosing ranks", len(choices), len(job.found))
        chosen, measured = _decide_group(job, group, rules)
        logger.info("%s: %s", label, chosen[0].reason or f"{chosen[0].method} {chosen[0].ranks}")
        choices |= {choice.name: choice for choice in chosen}
        prices |= measured
    job.progress("choosing ranks", len(job.found), len(job.found))
    return Decision(Plan(tuple(choices[f.place.label] for f in job.found)), prices)


def _groups(job: Job) -> dict[str, list[Found]]:
    """The nodes that share a weight, or stand alone, by the label of the first."""
    groups: dict[str, list[Found]] = {}
    for found in job.found:
        groups.setdefault(found.group, []).append(found)
    return groups


def replay(job: Job, plan: Plan) -> Decision:
    """Takes a plan as it is, and times what it factorises.

    Raises:
        PlanError: the plan was made for a model with other nodes.
    """
    known = {f.place.label: f for f in job.found}
    planned = {c.name: c for c in plan.choices}
    for name in sorted(known.keys() ^ planned.keys()):
        where = "the plan has" if name in planned else "the model has"
        raise PlanError(f"The plan is for another model: only {where} a node {name!r}.")
    for group in _groups(job).values():
        if len({(planned[f.place.label].method, planned[f.place.label].ranks) for f in group}) > 1:
            names = " and ".join(repr(f.place.label) for f in group[:2])
            raise PlanError(f"The plan treats {names} differently, but they share a weight.")
    candidates = {name: planned_candidate(known[name], c) for name, c in planned.items() if c.method}
    prices = {}
    for i, (name, candidate) in enumerate(candidates.items()):
        job.progress("timing the plan", i, len(candidates))
        timings = _measure(job, known[name], [candidate])
        if timings:
            prices[name] = Price(*timings)
    job.progress("timing the plan", len(candidates), len(candidates))
    ordered = Plan(tuple(planned[name] for name in known))
    return Decision(ordered, prices)


def planned_candidate(found: Found, choice: Choice) -> Candidate:
    """The candidate that a choice stands for.

    Raises:
        PlanError: the node is not the one that the plan was made for.
    """
    reading = found.reading.found
    if isinstance(reading, Skip):
        raise PlanError(f"The plan factorises {choice.name!r}, but it cannot be: {reading.reason}.")
    if choice.shape != reading.stage.shape or choice.op != reading.op:
        raise PlanError(
            f"The plan is for another model: its {choice.name!r} is a {choice.op} of shape {choice.shape}, "
            f"here it is a {reading.op} of shape {reading.stage.shape}."
        )
    if choice.method not in METHODS or choice.form != FORM or choice.ranks is None:
        raise PlanError(f"The plan asks for {choice.method} ({choice.form}) at {choice.name!r}, which is unknown.")
    method = METHODS[choice.method]
    if not method.applies(reading.stage, by_name=True):
        raise PlanError(f"The plan asks for {choice.method} at {choice.name!r}, which does not apply to its shape.")
    search.check_ranks(reading, method, choice.ranks)
    return Candidate(method.name, choice.ranks, method.stages(reading.stage, choice.ranks), 0.0)


def give_back(job: Job, decision: Decision, names: set[str], reason: str) -> Decision:
    """The decision with some nodes, and those that share their weights, kept after all."""
    leaders = {f.group for f in job.found if f.place.label in names}
    names = {f.place.label for f in job.found if f.group in leaders}
    choices = tuple(
        replace(c, status="kept", reason=reason, method=None, form=None, ranks=None) if c.name in names else c
        for c in decision.plan.choices
    )
    prices = {name: replace(price, after=None) if name in names else price for name, price in decision.prices.items()}
    return Decision(Plan(choices), prices)


def _decide_group(job: Job, group: list[Found], rules: Rules) -> tuple[list[Choice], dict[str, Price]]:
    """Decides on nodes that share a weight: all are factorised alike or none is."""
    first = group[0].reading.found
    if isinstance(first, Skip):
        return [Choice(first.name, first.op, None, "skipped", first.reason)], {}
    options = _options(job, group, rules)
    reason, candidates = (options, []) if isinstance(options, str) else ("", options)
    kept = [Choice(f.place.label, f.site.op, f.site.stage.shape, "kept", reason) for f in group]
    measured = [_measure(job, found, candidates) for found in group]
    before = {found.place.label: Price(timings[0]) for found, timings in zip(group, measured, strict=True) if timings}
    if not candidates:
        return kept, before
    timed = all(measured)
    if timed:
        costs = [sum(t.ms for t in column) for column in list(zip(*measured, strict=True))[1:]]
    else:
        costs = [float(sum(search.count(found.site, c) for found in group)) for c in candidates]
    best = search.cheapest(candidates, costs)
    method, ranks = candidates[best].method, candidates[best].ranks
    chosen = [replace(k, status="factorized", method=method, form=FORM, ranks=ranks) for k in kept]
    if not timed:
        return chosen, before
    after = {found.place.label: timings[1 + best] for found, timings in zip(group, measured, strict=True)}
    speedup = _speedup(before, after)
    if speedup < job.settings.min_speedup and not job.settings.keep_slower:
        slower = f"measured x{speedup:.2f} with {method} {','.join(map(str, ranks))}"
        return [replace(k, reason=slower) for k in kept], before
    return chosen, {name: replace(price, after=after[name]) for name, price in before.items()}


def _options(job: Job, group: list[Found], rules: Rules) -> list[Candidate] | str:
    """The candidates of nodes that share a weight, or why there are none."""
    for found in group:
        excluded = _excluded(found, job.settings)
        if excluded:
            return f"its weight is also that of {found.place.label}, {excluded}" if len(group) > 1 else excluded
    rule = next(filter(None, (rules.rule(found.place.label) for found in group)), None)
    return "the ranks file does not name it" if rule is None else search.candidates(group[0].site, rule)


def _speedup(before: Mapping[str, Price], after: Mapping[str, Timing]) -> float:
    """How much faster nodes are together; of one alone, the median of its rounds."""
    if len(after) == 1:
        return next(iter(after.values())).speedup
    return sum(price.before.ms for price in before.values()) / sum(timing.ms for timing in after.values())


def _excluded(found: Found, settings: Settings) -> str:
    label = found.place.label
    if settings.op_types and found.place.node.op_type not in settings.op_types:
        return "left out by --op-types"
    if settings.include and not any(_matches(label, pattern) for pattern in settings.include):
        return "left out by --include"
    return "left out by --exclude" if any(_matches(label, pattern) for pattern in settings.exclude) else ""


def _check_globs(job: Job) -> None:
    for pattern in (*job.settings.include, *job.settings.exclude):
        if not any(_matches(found.place.label, pattern) for found in job.found):
            logger.warning("No node matches %r of --include or --exclude.", pattern)


def _matches(label: str, pattern: str) -> bool:
    return label == pattern or fnmatch.fnmatchcase(label, pattern)


def _measure(job: Job, found: Found, candidates: list[Candidate]) -> list[Timing]:
    """Times of the node and of its candidates; empty where it is not timed."""
    shape = job.context.shapes.get(layer.activations(found)) if found.site.input_shape else None
    if not job.settings.benchmark or shape is None or math.prod(shape) > NOISE_VALUES:
        return []
    models = [layer.noise_original(job.model, found, job.context)]
    models += [layer.noise_chain(job.model, found, job.context, c) for c in candidates]
    try:
        return job.stopwatch.compare(models, layer.noise_input(found, job.context), LAYER_SECONDS)
    except FAILURES as error:
        logger.warning("%s is not timed: %s", found.place.label, first_line(error))
        return []


def rules_of(settings: Settings) -> Rules:
    """The rules that `--ranks` stands for."""
    return rank.parse_ranks(settings.ranks_text)
