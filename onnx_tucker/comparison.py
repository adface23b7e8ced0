"""Two models beside each other: how close the second's outputs are to the first's, their sizes and their times."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from onnx_tucker.errors import DataError, ModelError
from onnx_tucker.graph.ends import class_axes
from onnx_tucker.job import Progress, silent
from onnx_tucker.prepare import Model, prepare, source_of
from onnx_tucker.promises import not_finite, too_far
from onnx_tucker.report.numbers import count, factor, milliseconds
from onnx_tucker.report.schema import Change, Fidelity, finite
from onnx_tucker.report.table import machine, samples
from onnx_tucker.rivals import check_seconds, named, rivals
from onnx_tucker.runtime.fidelity import Comparison
from onnx_tucker.runtime.session import FAILURES, environment, first_line
from onnx_tucker.runtime.timing import Timing, warn_if_noisy
from onnx_tucker.settings import RACE_SECONDS, Settings
from onnx_tucker.types import Closeness

SCHEMA = "onnx-tucker/compare/1"


@dataclass(frozen=True)
class Compared:
    """The second of two models against the first.

    Attributes:
        models: their paths, or what else they are called.
        kind: "data" if they were run on the user's, else "random".
        samples: how many inputs.
        outputs: of each output of the first, how close the second's is.
        file_bytes: of all files of each.
        timings: of each, run in turn; empty where they were not timed.
        environment: what the times depend on.
        broken: which output is further off than it may be, without a full stop; None where none is.
    """

    models: tuple[str, ...]
    kind: str
    samples: int
    outputs: tuple[Closeness, ...]
    file_bytes: Change[int]
    timings: tuple[Timing, ...]
    environment: dict[str, Any]
    broken: str | None = None

    @property
    def notes(self) -> list[str]:
        """Of the inputs, the outputs, the files and the times, in sentences."""
        spoilt = not_finite(self.outputs)
        inputs = f"On {samples(self.kind, self.samples)}.{f' {spoilt}.' if spoilt else ''}"
        files = f"Files {count(self.file_bytes.before)} and {count(self.file_bytes.after)} bytes"
        if not self.timings:
            return [inputs, f"{files}."]
        first, last = self.timings
        low, high = last.speedup_ci
        times = f"times {milliseconds(first.ms)} and {milliseconds(last.ms)} ms, {factor(last.speedup)}"
        return [
            inputs,
            f"{files}; {times} (95 % interval {low:.2f} to {high:.2f}).",
            machine(self.environment),
        ]

    def to_json(self) -> str:
        """All of it as a JSON document; what is not known is null."""
        first, last = (self.timings[0], self.timings[1]) if self.timings else (None, None)
        document = {
            "schema": SCHEMA,
            "models": self.models,
            "fidelity": asdict(Fidelity(self.kind, self.samples, self.outputs)),
            "totals": {
                "file_bytes": asdict(self.file_bytes),
                "time_ms": {"before": first.ms if first else None, "after": last.ms if last else None},
                "speedup": last.speedup if last else None,
                "speedup_ci": last.speedup_ci if last else None,
            },
            "environment": self.environment,
        }
        return json.dumps(finite(document), indent=1, allow_nan=False) + "\n"


def compare(
    original: Model, other: Model, *, seconds: float = RACE_SECONDS, progress: Progress = silent, **options: Any
) -> Compared:
    """Runs two models on the same inputs.

    Args:
        original: the model that the other is compared with, or its path.
        other: has the same inputs, and all outputs of the first.
        seconds: the longest time to spend on timing, beyond seven rounds.
        progress: is told what is being done.
        **options: the fields of `Settings` that concern the model's inputs and timing, and `max_error`.

    Raises:
        TuckerError: a model cannot be read or run, or the other lacks an output.
    """
    settings = Settings.of(options, "compare")
    check_seconds(seconds)
    called = named([original, other])
    job = prepare(source_of(original), settings, progress, again=True)
    if job.session is None or job.inputs is None or job.reference is None:
        raise DataError(f"{called[0]} cannot be run; see the reason above, or give --data.")
    [rival] = rivals(job, [original, other], job.inputs.check.feeds[0])
    names = [value.name for value in job.session.get_outputs()]
    missing = [name for name in names if name not in {value.name for value in rival.session.get_outputs()}]
    if missing:
        raise ModelError(f"{called[1]} has no output {missing[0]!r}, which {called[0]} has.")
    comparison = Comparison(axes=class_axes(job.view))
    taken = [value.name for value in rival.session.get_inputs()]
    for i, feed in enumerate(job.inputs.feeds):
        progress("comparing outputs", i, len(job.inputs.feeds))
        try:
            expected = job.reference.outputs(i)
            made = rival.session.run(names, {name: feed[name] for name in taken})
        except FAILURES as error:
            raise DataError(f"The models do not run on all of the inputs: {first_line(error)}") from error
        comparison.add(names, expected, made, job.inputs.fit.batch(feed))
    outputs = tuple(comparison.results())
    most = settings.max_error
    broken = None if most is None else not_finite(outputs) or too_far(outputs, most, job.inputs.kind)
    timings: tuple[Timing, ...] = ()
    if settings.benchmark and job.timed_feed is not None:
        progress("timing", 0, 1)
        try:
            timings = tuple(job.stopwatch.race([job.session, rival.session], job.timed_feed, seconds))
        except FAILURES as error:
            raise DataError(f"The models do not run on what they are timed on: {first_line(error)}") from error
        warn_if_noisy(timings)
    both = job.inputs.fit.samples + (job.inputs.check.samples if job.inputs.held_out else 0)
    sizes = Change(job.size, rival.size)
    return Compared(
        called,
        job.inputs.kind,
        both,
        outputs,
        sizes,
        timings,
        environment(job.machine),
        broken,
    )
