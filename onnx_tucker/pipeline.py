"""Wires the parts together: load, find, price, plan, factorise, splice, measure, write."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import count, takewhile
from pathlib import Path
from types import NoneType
from typing import Any

import onnx

from onnx_tucker import outputs, remarks
from onnx_tucker.course import Course
from onnx_tucker.errors import OutputError, PlanError, PromiseError, UsageError
from onnx_tucker.fitting import statistics
from onnx_tucker.giveback import Made, hold, make, planned_only, timed
from onnx_tucker.graph.staging import Staging
from onnx_tucker.job import WRITTEN, Job, Progress, silent
from onnx_tucker.measure import in_situ, output_errors
from onnx_tucker.options import require_kind, require_range
from onnx_tucker.outcome import Outcome, report
from onnx_tucker.planning.pricing import decide
from onnx_tucker.planning.replay import replay
from onnx_tucker.prepare import Model, Source, prepare, source_of
from onnx_tucker.promises import Promises, Verdict
from onnx_tucker.rank.fixed import Full
from onnx_tucker.rank.rules import Rule, Rules, parse_ranks, parse_table
from onnx_tucker.report import writer
from onnx_tucker.report.front import FORMATS, Front
from onnx_tucker.report.schema import Change, Report
from onnx_tucker.runtime.evaluate import Evaluate, load_function
from onnx_tucker.runtime.threads import limited
from onnx_tucker.search import budgets
from onnx_tucker.search.auto import search
from onnx_tucker.search.front import front
from onnx_tucker.settings import POINTS, Settings
from onnx_tucker.training.finetuning import course_of, loss_of, trained
from onnx_tucker.training.student import restored, student
from onnx_tucker.training.teachable import require_known, require_torch
from onnx_tucker.types import Plan

logger = logging.getLogger(__name__)


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


@limited
def compress(
    model: Model,
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
    settings = Settings.of(options)
    given = settings.ranks != "auto" and settings.plan is None
    return _compressed(model, output, settings, _given_rules(settings) if given else None, progress)


def _compressed(
    model: Model, output: str | Path | None, settings: Settings, rules: Rules | None, progress: Progress
) -> Result:
    """See `compress`; by rules, or where there are none by a plan or by search."""
    source = source_of(model)
    target = _target(output)
    written = outputs.claimed([source], target, settings)
    plan = _given_plan(settings)
    course = course_of(settings)
    evaluate = _given_function(settings)
    job = prepare(source, settings, progress)
    outputs.protect(job.data_files, written)
    budgets.require_known(job)
    statistics.check(job)
    if course is not None:  # before all the work
        require_known(job, course)
    promises = Promises(job, evaluate)
    made, verdict = _made(job, plan, rules, promises, course)
    outcome = _outcome(job, made, verdict, promises)
    final, plan = made.result.model if made.result.weights else job.original, made.plan(job)
    if not settings.dry_run:
        remarks.unguarded(job, [plan])
    where = None if settings.dry_run else target
    return _written(job, source, Result(final, report(job, outcome), plan), verdict, where, job.data_files)


@limited
def sweep(
    model: Model,
    *,
    points: int = POINTS,
    plans: str | Path | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Front:
    """Finds models between the original and the cheapest, of which each loses less than all that cost less.

    Args:
        model: a model or the path of one; it is not changed.
        points: how many, at most.
        plans: folder for the plan of each model, in the order of the front.
        progress: is told what is being done.
        **options: the fields of `Settings` that do not concern a single result.

    Raises:
        TuckerError: see `errors`; no file has then been written.
    """
    settings = Settings.of(options, "sweep")
    require_range("points", points, 2, 1000, whole=True)
    require_kind("plans", plans, (str, Path, NoneType), "a path")
    source = source_of(model)
    reports = [Path(path) for path in settings.report]
    writers = [writer(path, FORMATS) for path in reports]
    planned = [_plan_path(plans, i) for i in range(points)] if plans is not None else []
    outputs.require(source)
    outputs.protect(outputs.sources(source, settings), [*reports, *planned])
    if plans is not None and not Path(plans).is_dir():
        raise OutputError(f"There is no folder {plans} to write plans to.")
    outputs.check([*reports, *planned], None, settings)
    evaluate = _given_function(settings)
    job = prepare(source, settings, progress)
    outputs.protect(job.data_files, [*reports, *planned])
    found = front(job, Promises(job, evaluate), points)
    remarks.unguarded(job, [point.plan for point in found.points])
    with Staging(settings.overwrite) as staging:
        for path, render in zip(reports, writers, strict=True):
            staging.write(path, outputs.text_bytes(render(found)))
        for path, spot in zip(planned, found.points, strict=False):
            staging.write(path, outputs.text_bytes(spot.plan.to_json()))
        staging.commit(None, job.data_files)
    progress(WRITTEN, 1, 1)
    if plans is not None and settings.overwrite:  # those of a sweep before, that found more
        rest = takewhile(Path.is_file, (_plan_path(plans, i) for i in count(points)))
        left = {*filter(Path.is_file, planned[len(found.points) :]), *rest}
        new = {path.resolve() for path in reports}
        for path in left:
            if path.resolve() not in new:
                with suppress(OSError):  # what was found is there all the same
                    path.unlink()
    return found


def _plan_path(folder: str | Path, number: int) -> Path:
    return Path(folder) / f"plan-{number + 1:02}.json"


@limited
def finetune(
    original: Model,
    factorised: Model,
    output: str | Path | None = None,
    *,
    epochs: int = Course.epochs,
    minutes: float = Course.minutes,
    learning_rate: float = Course.learning_rate,
    batch: int = Course.batch,
    loss: str | None = None,
    blocks: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Result:
    """Trains the weights of a factorised model until it does what the original does; nothing else of it changes.

    Args:
        original: the model that it was made from, or the path of that.
        factorised: what `compress` has made of it, or the path of that; it is not changed.
        output: where to write the result; None writes nothing.
        epochs: passes over the data, at most.
        minutes: time that training takes, at most.
        learning_rate: of Muon and AdamW, relative to the size of each weight.
        batch: samples of a step, at most, where the model's first dimension is free.
        loss: what is learnt: "distill" for what the original gives, "labels", which have to be named, or "both";
            without one, labels are learnt too if they are named.
        blocks: whether what lies between two linear nodes is trained by itself, one after another, for less memory.
        progress: is told what is being done.
        **options: the fields of `Settings` that concern data, promises, timing and outputs.

    Returns:
        The tuned model; the factorised one where that is not clearly closer to the original on the samples kept apart
        (with labels, where its loss is not lower), or where the training would break a promise.

    Raises:
        TuckerError: see `errors`; no file has then been written.
    """
    settings = Settings.of(options, "finetune")
    loss = loss or loss_of(settings)
    course = Course(epochs, minutes, learning_rate, batch, loss, blocks, settings.seed)
    if not settings.data:
        raise UsageError("Fine-tuning needs --data; inputs without labels suffice.")
    if loss != "distill" and settings.labels is None:
        raise UsageError(f"--loss {loss} needs --labels, the name of their array in the data.")
    source = source_of(original)
    other = source_of(factorised)
    target = _target(output)
    written = outputs.claimed([source, other], target, settings)
    require_torch()
    evaluate = _given_function(settings)
    job = prepare(source, settings, progress)
    loaded = student(job, other)
    read = job.data_files | loaded.data_files
    if loaded.data_files:  # weights in a file of their own stay in one
        job = replace(job, settings=replace(settings, save_as_external_data=True))
    outputs.protect(read, written)
    remarks.undivided(job)
    promises = Promises(job, evaluate)
    made, verdict = trained(job, restored(job, loaded.model), course, promises)
    if verdict.broken:
        raise PromiseError(verdict.broken)
    outcome = _outcome(job, timed(job, made), verdict, promises)
    found = replace(report(job, outcome), settings={**settings.as_dict(), **asdict(course)})
    return _written(job, other, Result(made.result.model, found, made.decision.plan), verdict, target, read)


@limited
def inspect(model: Model, *, progress: Progress = silent, **options: Any) -> Report:
    """Counts and times a model's linear layers as they are.

    Args:
        model: a model or the path of one.
        progress: is told what is being done.
        **options: the fields of `Settings` that concern the model's inputs, timing and counting.

    Raises:
        TuckerError: see `errors`.
    """
    settings = replace(Settings.of(options, "inspect"), ranks="full", lower=False, dry_run=True)
    return _compressed(model, None, settings, Rules({"*": Rule(Full("can be factorised"))}), progress).report


def _written(
    job: Job, source: Source, result: Result, verdict: Verdict | None, target: Path | None, read: Collection[Path]
) -> Result:
    """What is returned: a result, the model and all other files of which are in their places.

    Args:
        job: the run.
        source: what the model was made of, for its data files.
        result: what was made.
        verdict: what it was found to be, which is warned of once it is there.
        target: where the model goes; None for nowhere.
        read: data files that were read.
    """
    final, found = result.model, result.report
    with Staging(job.settings.overwrite) as staging:
        if target is not None:
            final, size = outputs.stage_model(job, source, final, target, staging)
            sizes = Change(found.totals.file_bytes.before, size)
            found = replace(found, totals=replace(found.totals, file_bytes=sizes))
        budgets.require_held(job.settings.budgets, found)
        outputs.stage_sides(job, found, result.plan, staging)
        staging.commit(target, read)
    job.progress(WRITTEN, 1, 1)
    remarks.far(job, verdict)
    return Result(final, found, result.plan)


def _made(
    job: Job, plan: Plan | None, rules: Rules | None, promises: Promises, course: Course | None
) -> tuple[Made, Verdict | None]:
    """The model by a plan, by rules, or where there is neither by search; on a dry run only what would be made.

    If it is to be trained, it is before its promises are checked, and where they do not hold, what is left when they
    have been made to.
    """
    decision = replay(job, plan) if plan is not None else decide(job, rules) if rules is not None else None
    if decision is None:
        made, verdict = search(job, promises)
    else:
        if job.settings.dry_run:
            return planned_only(job, decision), None
        made = make(job, decision)
        if course is not None and made.result.weights:
            tuned, verdict = trained(job, made, course, promises)
            if not verdict.broken:
                return tuned, verdict
        made, verdict = hold(job, made, promises)
    if course is None or not made.result.weights or job.settings.dry_run:
        return made, verdict
    return trained(job, made, course, promises)


def _given_rules(settings: Settings) -> Rules:
    """The rules that `--ranks` stands for."""
    if isinstance(settings.ranks, Mapping):
        return parse_table(settings.ranks)
    return parse_ranks(settings.ranks_text)


def _given_function(settings: Settings) -> Evaluate | None:
    return load_function(settings.eval) if isinstance(settings.eval, str) else settings.eval


def _target(output: str | Path | None) -> Path | None:
    """Where the result goes, if anywhere."""
    require_kind("output", output, (str, Path, NoneType), "a path")
    return None if output is None else Path(output)


def _given_plan(settings: Settings) -> Plan | None:
    if settings.plan is None or isinstance(settings.plan, Plan):
        return settings.plan
    try:
        return Plan.from_json(Path(settings.plan).read_text(encoding="utf-8"))
    except PlanError as error:
        raise PlanError(f"{settings.plan}: {error}") from error
    except FileNotFoundError as error:
        raise PlanError(f"There is no plan {settings.plan}.") from error
    except UnicodeDecodeError as error:
        raise PlanError(f"{settings.plan} is no plan: it is no text.") from error
    except OSError as error:
        raise PlanError(f"The plan {settings.plan} cannot be read: {error.strerror}.") from error


def _outcome(job: Job, made: Made, verdict: Verdict | None, promises: Promises) -> Outcome:
    result, closeness = made.result, verdict.closeness if verdict else None
    measured = output_errors(job, result.model, result.planned, result.weights)
    before = in_situ(job, job.model)
    profiled = Change(before, in_situ(job, result.model) if result.weights else before)
    sizes = Change(job.size, None if job.settings.dry_run else result.file_bytes(job))
    scores = Change(promises.original_score, verdict.score if verdict else None)
    return Outcome(
        decision=made.decision,
        weight_errors=result.errors,
        timings=made.timings,
        closeness=closeness,
        file_bytes=sizes,
        biases=result.biases,
        output_errors=measured,
        in_situ=profiled,
        score=scores,
    )
