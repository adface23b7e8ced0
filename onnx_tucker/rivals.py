"""Models side by side: times of whole models that take the same inputs, run in turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import onnx
import onnxruntime as ort

from onnx_tucker.errors import DataError, ModelError, UsageError
from onnx_tucker.job import Job, Progress, silent
from onnx_tucker.prepare import Model, careful, load, prepare, size, source_of
from onnx_tucker.report.schema import finite
from onnx_tucker.runtime.session import FAILURES, Feed, environment, first_line
from onnx_tucker.runtime.timing import Timing, warn_if_noisy
from onnx_tucker.settings import RACE_SECONDS, Settings

SCHEMA = "onnx-tucker/bench/1"


@dataclass(frozen=True)
class Rival:
    """A model that runs on the inputs of another one.

    Attributes:
        size: bytes of all its files.
        session: a session on it.
    """

    size: int
    session: ort.InferenceSession


@dataclass(frozen=True)
class Bench:
    """Times of models in the order given; speed-ups are over the first."""

    models: tuple[str, ...]
    timings: tuple[Timing, ...]
    environment: dict[str, Any]

    @property
    def rows(self) -> list[tuple[str, float, float, float, tuple[float, float]]]:
        """Model, median and interquartile range in milliseconds, speed-up and its interval."""
        pairs = zip(self.models, self.timings, strict=True)
        return [(model, t.ms, t.spread_ms, t.speedup, t.speedup_ci) for model, t in pairs]

    @property
    def noisy(self) -> bool:
        """Whether something else must have run on the machine."""
        return any(timing.noisy for timing in self.timings)

    def to_json(self) -> str:
        """The times as a JSON document."""
        names = ("model", "time_ms", "time_spread_ms", "speedup", "speedup_ci")
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        document = {"schema": SCHEMA, "models": rows, "noisy": self.noisy, "environment": self.environment}
        return json.dumps(finite(document), indent=1, allow_nan=False) + "\n"


def bench(
    models: Sequence[Model], *, seconds: float = RACE_SECONDS, progress: Progress = silent, **options: Any
) -> Bench:
    """Times models that take the same inputs.

    Args:
        models: the first is what the others are compared with.
        seconds: the longest time to spend, beyond seven rounds; it takes less if the result is tight before.
        progress: is told what is being done.
        **options: the fields of `Settings` that concern the model's inputs and timing.

    Raises:
        TuckerError: a model cannot be read, or not run on the inputs of the first.
    """
    settings = Settings.of(options, "bench")
    check_seconds(seconds)
    if isinstance(models, Model):
        models = [models]
    if not models:
        raise UsageError("There is no model to time.")
    names = named(models)
    job = prepare(source_of(models[0]), settings, progress, again=True)
    if job.session is None or job.timed_feed is None:
        raise DataError(f"{names[0]} cannot be run; see the reason above, or give --data.")
    others = [one.session for one in rivals(job, models, job.timed_feed)]
    progress("timing", 0, 1)
    timings = job.stopwatch.race([job.session, *others], job.timed_feed, seconds)
    progress("timing", 1, 1)
    warn_if_noisy(timings)
    return Bench(names, tuple(timings), environment(job.machine))


def check_seconds(seconds: float) -> None:
    """Makes sure that there is time to spend.

    Raises:
        UsageError: there is none.
    """
    if not (isinstance(seconds, Real) and float(seconds) > 0):
        raise UsageError("--seconds is a number above 0.")


def named(models: Sequence[Model]) -> tuple[str, ...]:
    """What models are called: by their paths, those in memory by their places."""
    return tuple(f"model {i + 1}" if isinstance(m, onnx.ModelProto) else str(m) for i, m in enumerate(models))


def rivals(job: Job, models: Sequence[Model], feed: Feed) -> list[Rival]:
    """Models that run on an input of the first, but for that one.

    Args:
        job: of the first.
        models: all of them.
        feed: the input.

    Raises:
        TuckerError: one cannot be read, has an input that the first has not, or does not run.
    """
    found = []
    first, *others = named(models)
    for name, source in zip(others, map(source_of, models[1:]), strict=True):
        loaded = load(source)
        content = loaded.model.SerializeToString(deterministic=True)
        try:
            session = careful(job.machine, loaded.model).session(content, loaded.folder)
            missing = {value.name for value in session.get_inputs()} - feed.keys()
            if missing:
                raise UsageError(f"{name} has an input {sorted(missing)[0]!r}, which {first} has not.")
            session.run(None, {value.name: feed[value.name] for value in session.get_inputs()})
        except FAILURES as error:
            raise ModelError(f"{name} does not run on the inputs of {first}: {first_line(error)}") from error
        found.append(Rival(size(source, loaded.data_files), session))
    return found
