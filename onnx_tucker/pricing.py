"""Decides what becomes of every node: candidates from the rank policy, prices from measurement."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx_tucker import rank
from onnx_tucker.errors import PlanError
from onnx_tucker.factor import METHODS
from onnx_tucker.graph import layer
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.rank import Rules, search
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
    choices, prices = [], {}
    for i, found in enumerate(job.found):
        job.progress("choosing ranks", i, len(job.found))
        choice, price = _decide_one(job, found, rules)
        logger.info("%s: %s", choice.name, choice.reason or f"{choice.method} {choice.ranks}")
        choices.append(choice)
        if price is not None:
            prices[choice.name] = price
    job.progress("choosing ranks", len(job.found), len(job.found))
    return Decision(Plan(tuple(choices)), prices)


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
    if choice.shape != reading.weight.shape or choice.op != reading.op:
        raise PlanError(
            f"The plan is for another model: its {choice.name!r} is a {choice.op} of shape {choice.shape}, "
            f"here it is a {reading.op} of shape {reading.weight.shape}."
        )
    if choice.method not in METHODS or choice.form != FORM or choice.ranks is None:
        raise PlanError(f"The plan asks for {choice.method} ({choice.form}) at {choice.name!r}, which is unknown.")
    method = METHODS[choice.method]
    if not method.applies(reading.stage, by_name=True):
        raise PlanError(f"The plan asks for {choice.method} at {choice.name!r}, which does not apply to its shape.")
    search.check_ranks(reading, method, choice.ranks)
    return Candidate(method.name, choice.ranks, method.stages(reading.stage, choice.ranks), 0.0)


def give_back(decision: Decision, names: set[str], reason: str) -> Decision:
    """The decision with some nodes kept after all."""
    choices = tuple(
        replace(c, status="kept", reason=reason, method=None, form=None, ranks=None) if c.name in names else c
        for c in decision.plan.choices
    )
    prices = {name: replace(price, after=None) if name in names else price for name, price in decision.prices.items()}
    return Decision(Plan(choices), prices)


def _decide_one(job: Job, found: Found, rules: Rules) -> tuple[Choice, Price | None]:
    reading, label = found.reading.found, found.place.label
    if isinstance(reading, Skip):
        return Choice(label, reading.op, None, "skipped", reading.reason), None
    shape = reading.weight.shape
    rule = rules.rule(label)
    options: list[Candidate] | str
    if excluded := _excluded(found, job.settings):
        options = excluded
    elif rule is None:
        options = "the ranks file does not name it"
    else:
        options = search.candidates(reading, rule)
    kept = Choice(label, reading.op, shape, "kept", options if isinstance(options, str) else "")
    candidates = [] if isinstance(options, str) else options
    timings = _measure(job, found, candidates)
    price = Price(timings[0]) if timings else None
    if not candidates:
        return kept, price
    costs = [t.ms for t in timings[1:]] or [search.count(reading, c) for c in candidates]
    best = search.cheapest(candidates, costs)
    choice = replace(kept, status="factorized", method=candidates[best].method, form=FORM, ranks=candidates[best].ranks)
    if not timings or price is None:
        return choice, price
    after = timings[1 + best]
    if after.speedup < job.settings.min_speedup and not job.settings.keep_slower:
        slower = f"measured x{after.speedup:.2f} with {choice.method} {','.join(map(str, choice.ranks or ()))}"
        return replace(kept, reason=slower), price
    return choice, replace(price, after=after)


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
    if not job.settings.benchmark or found.place.node.input[0] not in job.context.shapes:
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
