"""Wires the parts together: load, find, price, plan, factorise, splice, measure, write. No algorithms here."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from joblib import Parallel, delayed

from onnx_tucker import calibrate, outputs, promises
from onnx_tucker.allocate import allocate
from onnx_tucker.errors import PlanError, TuckerError, UsageError
from onnx_tucker.factor import weight_error
from onnx_tucker.graph import io
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.splice import splice, store
from onnx_tucker.job import Job, Progress, prepare
from onnx_tucker.measure import Outcome, in_situ, output_errors, report
from onnx_tucker.menu import members
from onnx_tucker.pricing import Decision, decide, rules_of
from onnx_tucker.rank.budget import Budget
from onnx_tucker.replay import give_back, planned_candidate, replay
from onnx_tucker.report.schema import Change, Report
from onnx_tucker.runtime.evaluate import load_function
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.runtime.timing import NOISY, Timing
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate, Chain, Closeness, Plan, Site

logger = logging.getLogger(__name__)

MODEL_SECONDS = 3.0
"""Time spent at most on comparing the whole model before and after."""


@dataclass(frozen=True, eq=False)
class Result:
    """What `compress` returns.

    Attributes:
        model: the compressed model; the input itself where nothing was changed. External data is not read into it:
            it refers to the data file that was written, or where none was, to the input's.
        report: everything measured.
        plan: what was done to every node.
    """

    model: onnx.ModelProto
    report: Report
    plan: Plan


def silent(what: str, done: int, of: int) -> None:
    """Progress that nobody watches."""


def compress(
    model: onnx.ModelProto | str | Path,
    output: str | Path | None = None,
    *,
    progress: Progress = silent,
    **options: Any,
) -> Result:
    """Factorises the linear layers of a trained model.

    Args:
        model: a model or the path of one; it is not changed.
        output: where to write the result; None writes nothing.
        progress: is told what is being done.
        **options: the fields of `Settings`, which mirror the command line.

    Returns:
        The compressed model, the report and the plan.

    Raises:
        TuckerError: see `errors`; no file has then been written.
    """
    settings = Settings(**options)
    if not isinstance(model, onnx.ModelProto | str | Path):
        raise UsageError(f"A model is an onnx.ModelProto or a path, not a {type(model).__name__}.")
    source = model if isinstance(model, onnx.ModelProto) else Path(model)
    target = Path(output) if output is not None else None
    written = outputs.targets(target, settings)
    outputs.protect(outputs.sources(source, settings), written)
    outputs.check(written, target, settings)
    rules = rules_of(settings) if settings.budget is None else None
    plan = _given_plan(settings)
    evaluate = load_function(settings.eval) if isinstance(settings.eval, str) else settings.eval
    job = prepare(source, settings, progress)
    outputs.protect(job.data_files, written)
    if plan is not None:
        decision = replay(job, plan)
    else:
        decision = decide(job, rules or allocate(job, Budget.parse(settings.budget or "")))
    made = _Made(job.model, decision, {}, {}, {})
    if settings.dry_run:
        outcome = _outcome(job, made, _time(job, made), None)
    else:
        made, timings = _make(job, decision)
        outcome = _outcome(job, made, timings, promises.verify(job, made.model, evaluate, changed=bool(made.weights)))
    final, plan = made.model if made.weights else job.original, made.decision.plan
    with io.Staging() as staging:
        if target is not None and not settings.dry_run:
            final, size = outputs.stage_model(job, source, final, target, staging)
            outcome = replace(outcome, file_bytes=Change(outcome.file_bytes.before, size))
        result = Result(final, report(job, outcome), plan)
        promises.require_budget(settings, result.report)
        outputs.stage_sides(result.report, plan, settings, staging)
        staging.commit(target, job.data_files)
    return result


def inspect(model: onnx.ModelProto | str | Path, *, progress: Progress = silent, **options: Any) -> Report:
    """Counts and times a model's linear layers as they are.

    Args:
        model: a model or the path of one.
        progress: is told what is being done.
        **options: the fields of `Settings` that concern the model's inputs, timing and counting.

    Raises:
        TuckerError: see `errors`.
    """
    return compress(model, progress=progress, **options, ranks="full", lower=False, dry_run=True).report


@dataclass(frozen=True, eq=False)
class _Made:
    """A model with the chains of a decision in it.

    Attributes:
        model: the model; the job's own where nothing was changed.
        decision: what became of its nodes.
        planned: what the nodes with new weights are, by label.
        weights: the stored weights of each of them; nodes that share them share the list.
        errors: relative error of the weight of each.
    """

    model: onnx.ModelProto
    decision: Decision
    planned: Mapping[str, Candidate]
    weights: Mapping[str, list[onnx.TensorProto]]
    errors: Mapping[str, float]


def _given_plan(settings: Settings) -> Plan | None:
    if settings.plan is None or isinstance(settings.plan, Plan):
        return settings.plan
    try:
        return Plan.from_json(Path(settings.plan).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"The plan {settings.plan} cannot be read: {getattr(error, 'strerror', error)}.") from error


def _make(job: Job, decision: Decision) -> tuple[_Made, list[Timing] | None]:
    """Factorises and splices; gives back the weaker half of the chains while the whole model measures slower."""
    made = _factorise(job, decision)
    timings = _time(job, made)
    if made.weights and timings and not (job.settings.insists or job.settings.plan is not None):
        made, timings = _without_slow(job, made, timings)
    while made.weights and timings and timings[1].speedup < 1:
        if job.settings.keep_slower or job.settings.plan is not None:
            logger.warning("The result is slower than the input, as asked: x%.2f.", timings[1].speedup)
            break
        weak = _weaker_half(made)
        reason = f"given back, the whole model measured x{timings[1].speedup:.2f}"
        logger.info("%s: %s", ", ".join(sorted(weak)), reason)
        made = _with_less(job, made, dict.fromkeys(weak, reason))
        timings = _time(job, made)
    return made, timings


def _without_slow(job: Job, made: _Made, timings: list[Timing]) -> tuple[_Made, list[Timing]]:
    """Gives back the nodes that are slower within the model than they were, if it is faster without them."""
    before, after = in_situ(job, job.model), in_situ(job, made.model)
    if not before or not after:
        return made, timings
    changed = [label for label, candidate in made.planned.items() if candidate.changes]
    slow = {name: before[name] / after[name] for name in changed if after.get(name, 0) > before.get(name, math.inf)}
    if not slow:
        return made, timings
    reasons = {name: f"measured x{speedup:.2f} within the model" for name, speedup in slow.items()}
    other = _with_less(job, made, reasons)
    if not other.weights:
        return made, timings
    models = [model.SerializeToString(deterministic=True) for model in (made.model, other.model)]
    [_, with_less] = job.stopwatch.compare(models, job.timed_feed or {}, MODEL_SECONDS, job.folder)
    if with_less.speedup_ci[0] <= 1:
        return made, timings
    logger.info("%s: slower within the model", ", ".join(sorted(slow)))
    return other, _time(job, other) or timings


def _with_less(job: Job, made: _Made, reasons: Mapping[str, str]) -> _Made:
    """The model without some of its chains. Those that were fitted behind others are fitted anew."""
    decision = give_back(job, made.decision, reasons)
    if calibrate.usable(job):
        return _factorise(job, decision)
    planned = _planned(job, decision)
    return _splice(job, decision, planned, {label: made.weights[label] for label in planned}, made.errors)


def _weaker_half(made: _Made) -> set[str]:
    """The half of the chains that saves least time by itself."""

    def saved(name: str) -> float:
        price = made.decision.prices.get(name)
        return price.before.ms - price.after.ms if price and price.after else 0.0

    changed = [label for label, candidate in made.planned.items() if candidate.changes]
    ordered = sorted(changed, key=saved)
    return set(ordered[: -(-len(ordered) // 2)])


def _factorise(job: Job, decision: Decision) -> _Made:
    planned = _planned(job, decision)
    planned |= calibrate.refits(job, planned)
    leaders = [f for f in job.found if f.place.label in planned and f.group == f.place.label]
    names, weights, errors = Names(job.model), dict[str, list[onnx.TensorProto]](), dict[str, float]()
    for i, (leader, (chain, error)) in enumerate(zip(leaders, _chains(job, leaders, planned), strict=True)):
        job.progress("factorising", i, len(leaders))
        if chain is None:
            del planned[leader.place.label]
            continue
        stored = store(leader, planned[leader.place.label], chain, names)
        group = members(job, leader)
        weights |= dict.fromkeys(group, stored)
        errors |= dict.fromkeys(group, error)
    job.progress("factorising", len(leaders), len(leaders))
    return _splice(job, decision, planned, weights, errors)


def _chains(
    job: Job, leaders: Sequence[Found], planned: Mapping[str, Candidate]
) -> Iterable[tuple[Chain | None, float]]:
    """The chains of nodes with the errors of their weights: one after another with data, else side by side."""
    if calibrate.usable(job):
        fitting = calibrate.Fitting(job, planned)
        return (_rounded(found.site, fitting.chain(found)) for found in leaders)
    return Parallel(n_jobs=job.settings.jobs, prefer="threads", return_as="generator")(  # type: ignore[no-any-return]
        delayed(lambda f: _rounded(f.site, calibrate.decomposed(f.site, planned[f.place.label])))(f) for f in leaders
    )


def _rounded(site: Site, chain: Chain | None) -> tuple[Chain | None, float]:
    """A chain in the weight's own type, and its relative error."""
    if chain is None:
        return None, 0.0
    weight = site.read()
    chain = replace(chain, factors=tuple(factor.astype(site.dtype, copy=False) for factor in chain.factors))
    return chain, weight_error(weight, chain)


def _planned(job: Job, decision: Decision) -> dict[str, Candidate]:
    """The candidates of a decision, by node."""
    pairs = zip(job.found, decision.plan.choices, strict=True)
    return {f.place.label: planned_candidate(job.context, f, choice) for f, choice in pairs if choice.form}


def _splice(
    job: Job,
    decision: Decision,
    planned: Mapping[str, Candidate],
    weights: Mapping[str, list[onnx.TensorProto]],
    errors: Mapping[str, float],
) -> _Made:
    if not weights:
        return _Made(job.model, decision, {}, {}, {})
    return _Made(splice(job.model, planned, weights, job.found, job.context), decision, planned, weights, errors)


def _time(job: Job, made: _Made) -> list[Timing] | None:
    feed = job.timed_feed
    if not job.settings.benchmark or feed is None:
        return None
    job.progress("timing the whole model", 0, 1)
    contents = [job.content]
    if made.weights:
        contents.append(made.model.SerializeToString(deterministic=True))
    try:
        timings = job.stopwatch.compare(contents, feed, MODEL_SECONDS, job.folder)
    except FAILURES as error:
        raise TuckerError(f"onnxruntime cannot run the result, please report this: {first_line(error)}") from error
    if any(timing.noisy for timing in timings):
        logger.warning("The machine is busy: times of the whole model differ by more than %.0f %%.", 100 * NOISY)
    job.progress("timing the whole model", 1, 1)
    unchanged = not made.weights and not job.settings.dry_run
    return timings * 2 if unchanged else timings  # comparing a model with itself would only report noise


def _outcome(job: Job, made: _Made, timings: list[Timing] | None, closeness: list[Closeness] | None) -> Outcome:
    errors = {name: made.errors[name] for name in made.weights}
    measured = output_errors(job, made.model, made.planned, made.weights)
    before = in_situ(job, job.model)
    profiled = Change(before, in_situ(job, made.model) if made.weights else before)
    return Outcome(made.decision, errors, measured, profiled, timings, closeness, Change(job.size, None))
