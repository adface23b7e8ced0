"""Wires the parts together: load, find, price, plan, factorise, splice, measure, write. No algorithms here."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from joblib import Parallel, delayed

from onnx_tucker import rank
from onnx_tucker.errors import DataError, PlanError, PromiseError, TuckerError, UsageError
from onnx_tucker.factor import METHODS
from onnx_tucker.graph import io
from onnx_tucker.graph.check import invalid
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.splice import Piece, build, splice
from onnx_tucker.job import Job, Progress, prepare
from onnx_tucker.measure import Outcome, report
from onnx_tucker.pricing import Decision, decide, give_back, planned_candidate, replay, rules_of
from onnx_tucker.report import render, writer
from onnx_tucker.report.schema import Change, Report
from onnx_tucker.runtime import fidelity
from onnx_tucker.runtime.evaluate import Evaluate, load_function, score
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.runtime.timing import Timing
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
    targets = _targets(target, settings)
    _check_targets(targets, _read_files(source, settings), settings)
    rules = rules_of(settings)
    plan = _given_plan(settings)
    evaluate = load_function(settings.eval) if isinstance(settings.eval, str) else settings.eval
    job = prepare(source, settings, progress)
    _check_targets(targets, job.data_files, settings)
    decision = decide(job, rules) if plan is None else replay(job, plan)
    made = _Made(job.model, decision, {}, {})
    if settings.dry_run:
        outcome = _outcome(job, made, _time(job, made), None)
    else:
        made, timings = _make(job, decision)
        outcome = _outcome(job, made, timings, _verify(job, made, evaluate))
    written: dict[Path, io.Content] = {}
    model_ = made.model if made.pieces else job.original
    if target is not None and not settings.dry_run:
        model_, written, size = _model_files(job, source, model_, target)
        outcome = replace(outcome, file_bytes=Change(outcome.file_bytes.before, size))
    result = Result(model_, report(job, outcome), made.decision.plan)
    obsolete = io.superseded(target, job.data_files) if target is not None and written else []
    io.write_files({**_side_files(result, settings), **written}, obsolete)
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
    return compress(model, progress=progress, **options, ranks="full", dry_run=True).report


@dataclass(frozen=True, eq=False)
class _Made:
    """A model with the chains of a decision in it."""

    model: onnx.ModelProto
    decision: Decision
    chains: Mapping[str, Chain]
    pieces: Mapping[str, Piece]


def _targets(target: Path | None, settings: Settings) -> list[Path]:
    """All files that are going to be written."""
    for path in settings.report:
        writer(Path(path))
    paths = [Path(p) for p in (settings.plan_out, *settings.report) if p is not None]
    if target is not None and not settings.dry_run:
        paths.append(target)
    return paths


def _read_files(source: onnx.ModelProto | Path, settings: Settings) -> set[Path]:
    """All files that the options name as inputs."""
    named = [source, settings.plan, *settings.data_paths, settings.custom_op_lib]
    if settings.ranks_text.endswith(rank.FILE_ENDINGS):
        named.append(settings.ranks_text)
    if isinstance(settings.eval, str):
        named.append(settings.eval.rpartition(":")[0])
    return {Path(name) for name in named if isinstance(name, str | Path)}


def _check_targets(targets: Sequence[Path], read: Collection[Path], settings: Settings) -> None:
    """Makes sure, before any work, that the outputs can be written and that nothing is lost by it.

    Raises:
        UsageError: an output is one of the inputs, or two outputs are the same file.
        OutputError: one cannot be written.
    """
    for path in targets:
        if any(io.same(path, other) for other in read):
            raise UsageError(f"{path} is an input itself, which is never changed; name another output.")
    if len({os.path.normcase(path.resolve()) for path in targets}) < len(targets):
        raise UsageError("Two outputs have the same name.")
    for path in targets:
        io.check_target(path, settings.overwrite)


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
    while made.pieces and timings and timings[1].speedup < 1:
        if job.settings.keep_slower or job.settings.plan is not None:
            logger.warning("The result is slower than the input, as asked: x%.2f.", timings[1].speedup)
            break
        weak = _weaker_half(made)
        reason = f"given back, the whole model measured x{timings[1].speedup:.2f}"
        logger.info("%s: %s", ", ".join(sorted(weak)), reason)
        decision = give_back(job, made.decision, weak, reason)
        kept = {c.name: made.chains[c.name] for c in decision.plan.choices if c.method}
        made = _splice(job, decision, kept)
        timings = _time(job, made)
    return made, timings


def _weaker_half(made: _Made) -> set[str]:
    """The half of the chains that saves least time by itself."""

    def saved(name: str) -> float:
        price = made.decision.prices.get(name)
        return price.before.ms - price.after.ms if price and price.after else 0.0

    ordered = sorted(made.chains, key=saved)
    return set(ordered[: -(-len(ordered) // 2)])


def _factorise(job: Job, decision: Decision) -> _Made:
    choices = {c.name: c for c in decision.plan.choices if c.method}
    planned = {
        f.place.label: planned_candidate(f, choices[f.place.label]) for f in job.found if f.place.label in choices
    }
    leaders = [f for f in job.found if f.place.label in planned and f.group == f.place.label]
    tasks = Parallel(n_jobs=job.settings.jobs, prefer="threads", return_as="generator")(
        delayed(_chain)(f.site, planned[f.place.label]) for f in leaders
    )
    chains = {}
    for i, (leader, chain) in enumerate(zip(leaders, tasks, strict=True)):
        job.progress("factorising", i, len(leaders))
        chains[leader.place.label] = chain
    job.progress("factorising", len(leaders), len(leaders))
    return _splice(job, decision, {f.place.label: chains[f.group] for f in job.found if f.place.label in planned})


def _chain(site: Site, candidate: Candidate) -> Chain:
    """The chain of a candidate, its factors computed in float64 and rounded to the weight's type."""
    chain = METHODS[candidate.method].chain(site.read(), site.stage, candidate.ranks)
    return replace(chain, factors=tuple(factor.astype(site.dtype) for factor in chain.factors))


def _splice(job: Job, decision: Decision, chains: Mapping[str, Chain]) -> _Made:
    if not chains:
        return _Made(job.model, decision, {}, {})
    names = Names(job.model)
    methods = {c.name: c.method for c in decision.plan.choices if c.method}
    pieces: dict[str, Piece] = {}
    for found in job.found:
        label = found.place.label
        if label in chains:
            shared = pieces[found.group].weights if found.group in pieces else ()
            pieces[label] = build(found, methods[label], chains[label], job.context, names, shared)
    return _Made(splice(job.model, pieces, job.found, job.context), decision, chains, pieces)


def _time(job: Job, made: _Made) -> list[Timing] | None:
    feed = job.timed_feed
    if not job.settings.benchmark or feed is None:
        return None
    job.progress("timing the whole model", 0, 1)
    contents = [job.content]
    if made.pieces:
        contents.append(made.model.SerializeToString(deterministic=True))
    timings = job.stopwatch.compare(contents, feed, MODEL_SECONDS, job.folder)
    job.progress("timing the whole model", 1, 1)
    unchanged = not made.pieces and not job.settings.dry_run
    return timings * 2 if unchanged else timings  # comparing a model with itself would only report noise


def _verify(job: Job, made: _Made, evaluate: Evaluate | None) -> list[Closeness] | None:
    """Checks the result as a model and against all promises, and compares its outputs."""
    session = _checked_session(job, made.model)
    closeness = _compare(job, session)
    _require(job, made, closeness)
    if evaluate is not None:
        if session is None or job.session is None:
            raise PromiseError("--max-drop cannot be checked, because the model cannot be run; see the reason above.")
        _require_score(job.settings, score(evaluate, job.session), score(evaluate, session))
    return closeness


def _checked_session(job: Job, model: onnx.ModelProto) -> ort.InferenceSession | None:
    """A session on the result, which has to be as good a model as the input was."""
    if model is job.model:
        return job.session
    fault = invalid(model, job.folder)
    if fault and not invalid(job.model, job.folder):
        raise TuckerError(f"The result is not a valid model, please report this: {fault}")
    if fault:
        logger.warning("Neither the input nor the result passes onnx's checker: %s", fault)
    if job.session is None:
        return None
    try:
        return job.stopwatch.machine.session(model.SerializeToString(deterministic=True), job.folder)
    except FAILURES as error:
        raise TuckerError(f"onnxruntime cannot run the result, please report this: {first_line(error)}") from error


def _compare(job: Job, session: ort.InferenceSession | None) -> list[Closeness] | None:
    if session is None or job.session is None or job.inputs is None:
        return None
    comparison = fidelity.Comparison()
    names = [value.name for value in job.session.get_outputs()]
    for i, feed in enumerate(job.inputs.feeds):
        job.progress("comparing outputs", i, len(job.inputs.feeds))
        try:
            expected = job.session.run(names, dict(feed))
        except FAILURES as error:  # it ran on the first of them
            if job.inputs.kind == "data":
                raise DataError(f"The model does not run on all of the data: {first_line(error)}") from error
            continue
        try:
            comparison.add(names, expected, session.run(names, dict(feed)))
        except FAILURES as error:
            raise TuckerError(f"The result does not run as the input does, please report this: {error}") from error
    job.progress("comparing outputs", len(job.inputs.feeds), len(job.inputs.feeds))
    return comparison.results()


def _require(job: Job, made: _Made, closeness: list[Closeness] | None) -> None:
    """Holds the result to the promises on its outputs.

    Raises:
        PromiseError: one of them is broken.
    """
    settings = job.settings
    if settings.fail_if_unchanged and not made.pieces:
        raise PromiseError("Nothing was factorised, and --fail-if-unchanged asks for a change.")
    for output in closeness or []:
        if not output.finite:
            raise PromiseError(f"The output {output.name} is not finite where the original's is.")
    if settings.max_error is None:
        return
    if closeness is None or job.inputs is None:
        raise PromiseError("--max-error cannot be checked, because the model cannot be run; see the reason above.")
    for output in closeness:
        if output.relative_l2 is None or output.relative_l2 > settings.max_error:
            error = "not defined" if output.relative_l2 is None else f"{output.relative_l2:.3g}"
            where = "the data" if job.inputs.kind == "data" else "random inputs"
            raise PromiseError(
                f"The relative error of output {output.name} on {where} is {error}, above --max-error "
                f"{settings.max_error:g}; keep more with --ranks."
            )


def _require_score(settings: Settings, before: float, after: float) -> None:
    logger.info("score %.6g before, %.6g after", before, after)
    drop = before - after
    if settings.max_drop is not None and not drop <= settings.max_drop:
        raise PromiseError(
            f"The score falls from {before:.6g} to {after:.6g}, by more than --max-drop {settings.max_drop:g}."
        )


def _outcome(job: Job, made: _Made, timings: list[Timing] | None, closeness: list[Closeness] | None) -> Outcome:
    size = len(job.content) + sum(path.stat().st_size for path in job.data_files)
    return Outcome(made.decision, made.chains, made.pieces, timings, closeness, Change(size, None))


def _model_files(
    job: Job, source: onnx.ModelProto | Path, model: onnx.ModelProto, target: Path
) -> tuple[onnx.ModelProto, dict[Path, io.Content], int]:
    """The model as it is written, the files of the result, and their size.

    A model in which nothing changed is written byte for byte as it was read. Weights stay in a data file if they are.
    """
    if not (job.settings.save_as_external_data or job.data_files):
        if model is job.original and isinstance(source, Path):
            content = source.read_bytes()
        else:
            content = model.SerializeToString(deterministic=True)
        return model, {target: content}, len(content)
    if model is job.original:  # which is never changed
        model = onnx.ModelProto()
        model.CopyFrom(job.original)
    data_path = io.free_data_path(target, job.settings.overwrite, job.data_files)
    write, size = io.externalise(model, job.folder, data_path.name)
    content = model.SerializeToString(deterministic=True)
    return model, {**({data_path: write} if size else {}), target: content}, size + len(content)


def _side_files(result: Result, settings: Settings) -> dict[Path, io.Content]:
    files: dict[Path, io.Content] = {Path(path): render(result.report, Path(path)).encode() for path in settings.report}
    if settings.plan_out is not None:
        files[Path(settings.plan_out)] = result.plan.to_json().encode()
    return files
