"""Models side by side: times of whole models that take the same inputs, run in turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_tucker.errors import DataError, ModelError, UsageError
from onnx_tucker.graph import io
from onnx_tucker.job import Progress, prepare
from onnx_tucker.runtime.session import FAILURES, environment, first_line
from onnx_tucker.runtime.timing import Timing
from onnx_tucker.settings import Settings

SCHEMA = "onnx-tucker/bench/1"


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
        return json.dumps(document, indent=1) + "\n"


def bench(models: Sequence[str | Path], progress: Progress, seconds: float = 10.0, **options: Any) -> Bench:
    """Times models that take the same inputs.

    Args:
        models: their paths; the first is what the others are compared with.
        progress: is told what is being done.
        seconds: the longest time to spend; it takes less if the result is tight before.
        **options: the fields of `Settings` that concern the model's inputs and timing.

    Raises:
        TuckerError: a model cannot be read, or not run on the inputs of the first.
    """
    settings = Settings(**options)
    if not seconds > 0:
        raise UsageError("--seconds is a number above 0.")
    job = prepare(Path(models[0]), settings, progress)
    if job.timed_feed is None:
        raise DataError(f"{models[0]} cannot be run; see the reason above, or give --data.")
    others = [io.load(Path(path)) for path in models[1:]]
    sources = [(one.model.SerializeToString(deterministic=True), one.folder) for one in others]
    for path, (content, folder) in zip(models[1:], sources, strict=True):
        try:
            session = job.stopwatch.machine.session(content, folder)
            missing = {value.name for value in session.get_inputs()} - job.timed_feed.keys()
            if missing:
                raise UsageError(f"{path} has an input {sorted(missing)[0]!r}, which {models[0]} has not.")
            session.run(None, {value.name: job.timed_feed[value.name] for value in session.get_inputs()})
        except FAILURES as error:
            raise ModelError(f"{path} does not run on the inputs of {models[0]}: {first_line(error)}") from error
    progress("timing", 0, 1)
    timings = job.stopwatch.race([(job.content, job.folder), *sources], job.timed_feed, seconds)
    progress("timing", 1, 1)
    return Bench(tuple(map(str, models)), tuple(timings), environment(job.stopwatch.machine))
