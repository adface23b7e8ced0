"""The files of a run: which are read, which are written, and how the result gets into them."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from onnx_tucker.errors import ModelError, OutputError, UsageError
from onnx_tucker.fitting import statistics
from onnx_tucker.graph import io
from onnx_tucker.graph.staging import Staging, check_target, free_data_path, same
from onnx_tucker.job import Job
from onnx_tucker.prepare import Source
from onnx_tucker.rank import rules
from onnx_tucker.report import FORMATS, render, writer
from onnx_tucker.report.schema import Report
from onnx_tucker.runtime import data_files
from onnx_tucker.settings import Settings
from onnx_tucker.types import Plan


def claimed(models: Sequence[Source], target: Path | None, settings: Settings) -> list[Path]:
    """The files that are going to be written; none of them is read, or in the way.

    Raises:
        TuckerError: one is, or there is no such model.
    """
    written = targets(target, settings)
    for model in models:
        require(model)
    protect({file for model in models for file in sources(model, settings)}, written)
    check(written, target, settings)
    return written


def targets(target: Path | None, settings: Settings) -> list[Path]:
    """All files that are going to be written, but for a data file, whose name is chosen when it is."""
    for path in settings.report:
        writer(Path(path), FORMATS)
    paths = [Path(p) for p in (settings.plan_out, settings.statistics_out, *settings.report) if p is not None]
    if target is not None and not settings.dry_run:
        paths.append(target)
    return paths


def sources(source: Source, settings: Settings) -> set[Path]:
    """All files that the options name as inputs, those in folders of data too."""
    data = [file for path in settings.data_paths for file in data_files.files(path)]
    named = [source, settings.plan, settings.statistics, *data, settings.custom_op_lib]
    if settings.ranks_text.endswith(rules.FILE_ENDINGS):
        named.append(settings.ranks_text)
    if isinstance(settings.eval, str):
        named.append(settings.eval.rpartition(":")[0])
    return {Path(name) for name in named if isinstance(name, str | Path)}


def require(source: Source) -> None:
    """Makes sure that there is something to read, before what is to be written is looked at.

    Raises:
        ModelError: there is not.
    """
    if isinstance(source, Path) and not source.exists():
        raise ModelError(f"There is no file {source}.")


def protect(read: Collection[Path], written: Sequence[Path]) -> None:
    """Makes sure that no output takes the place of an input.

    Raises:
        UsageError: one would.
    """
    for path in written:
        if any(same(path, other) for other in read):
            raise UsageError(f"{path} is an input itself, which is never changed; name another output.")


def check(written: Sequence[Path], target: Path | None, settings: Settings) -> None:
    """Makes sure, before any work, that the outputs can be written and that nothing is lost by it.

    Raises:
        UsageError: two outputs are the same file, or one holds the weights of the model that is at `target` now.
        OutputError: one cannot be written.
    """
    for path in written:
        check_target(path, settings.overwrite)
    if len({os.path.normcase(path.resolve()) for path in written}) < len(written):
        raise UsageError("Two outputs have the same name.")
    held = io.data_of(target) if target is not None and settings.overwrite else set()
    for path in written:
        if any(same(path, other) for other in held):
            raise UsageError(f"{path} holds weights of the model that is at {target}; name another output.")


def stage_model(
    job: Job, source: Source, model: onnx.ModelProto, target: Path, staging: Staging
) -> tuple[onnx.ModelProto, int]:
    """Stages the result, with its weights in a data file if the input's are.

    A model in which nothing changed is written byte for byte as it was read.

    Returns:
        The model as it is in its file, and the size of all its files.
    """
    unchanged = model is job.original
    if not job.apart:
        content = model.SerializeToString(deterministic=True)
        if unchanged and isinstance(source, Path):
            content = _as_read(source, content)
        return model, staging.write(target, content)
    if unchanged:  # the user's own is never changed
        model = onnx.ModelProto()
        model.CopyFrom(job.original)
    size = 0
    if io.movable(model):
        if target.is_symlink() and target.resolve().parent != target.parent.resolve():
            raise OutputError(
                f"{target} is a link into another folder, where its data file would not be; name the file."
            )
        data_path = free_data_path(target, targets(target, job.settings))
        size = staging.write(data_path, partial(io.move_out, model, job.folder, data_path.name))
    return model, size + staging.write(target, model.SerializeToString(deterministic=True))


def _as_read(source: Path, content: bytes) -> bytes:
    """The bytes of a model's file, if they still are those of a model of this content.

    Raises:
        ModelError: they are not.
    """
    read = source.read_bytes()
    try:
        if onnx.load_model_from_string(read).SerializeToString(deterministic=True) == content:
            return read
    except DecodeError:
        pass
    raise ModelError(f"{source} was changed while it was worked on; run it again.")


def text_bytes(text: str) -> bytes:
    """A text as UTF-8; what names of files hold besides is escaped."""
    return text.encode("utf-8", "backslashreplace")


def stage_sides(job: Job, report: Report, plan: Plan, staging: Staging) -> None:
    """Stages the reports, the plan and the statistics."""
    settings = job.settings
    for path in settings.report:
        staging.write(Path(path), text_bytes(render(report, Path(path))))
    if settings.plan_out is not None:
        staging.write(Path(settings.plan_out), text_bytes(plan.to_json()))
    if settings.statistics_out is not None:
        staging.write(Path(settings.statistics_out), partial(statistics.save, job))
