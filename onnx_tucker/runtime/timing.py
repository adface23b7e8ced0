"""Comparing the speed of models: run in turn, in one process, on the same input.

Machines drift, so only ratios of runs that stand side by side mean anything. The runs of all contenders alternate;
the speed-up is the median over rounds of the ratio to the first, with a distribution-free 95 % confidence interval
(order statistics of the binomial distribution).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from scipy.stats import binom

from onnx_tucker.runtime.session import Feed, Machine, cores, cpu_name, output_names

logger = logging.getLogger(__name__)

SAMPLE_S = 0.002
"""A sample shorter than this is made of several runs, so that the clock's and the scheduler's grain vanish."""
MIN_ROUNDS = 7
"""The least number of rounds for which the 95 % interval exists."""
TIGHT = 0.03
"""Rounds go on until the intervals of all speed-ups are this narrow, relative to the speed-up, on either side."""
ROUGH_ROUNDS = 3
"""Runs from which a rough time is taken."""
HOPELESS = 2.0
"""How many times slower than the fastest a model is when its first run decides."""


@dataclass(frozen=True)
class Timing:
    """How long one model takes, and how much faster it is than the first of its comparison.

    Attributes:
        ms: median time of a run.
        spread_ms: interquartile range.
        speedup: median over rounds of first / this; 1 for the first itself.
        speedup_ci: 95 % confidence interval of the speed-up.
        remembered: whether it was measured by an earlier run.
    """

    ms: float
    spread_ms: float
    speedup: float
    speedup_ci: tuple[float, float]
    remembered: bool = False


@dataclass(frozen=True)
class Stopwatch:
    """Times models on one machine setting, with a memory of what it has timed before.

    Attributes:
        machine: how sessions run.
        cache: folder of earlier results, safe to delete and to share between processes; None remembers nothing
            beyond this run.
        memory: results of this run.
    """

    machine: Machine
    cache: Path | None = None
    memory: dict[str, list[Timing]] = field(default_factory=dict, compare=False, repr=False)

    def sift(self, models: Sequence[bytes], feed: Feed) -> list[float]:
        """Rough times of models in milliseconds, by which to leave out those that cannot win.

        A model that takes far longer than the fastest so far is run once only.

        Args:
            models: the models as bytes.
            feed: what they are run on; each takes the inputs that it has.

        Raises:
            session.FAILURES: onnxruntime cannot run one of them.
        """
        rough: list[float] = []
        for model in models:
            key = self._key([model], feed, "rough")
            known = self._recall(key, 1)
            if not known:
                known = [_roughly(self.machine.session(model), feed, min(rough, default=math.inf))]
                self._remember(key, known)
            rough.append(known[0].ms)
        return rough

    def compare(self, models: Sequence[bytes], feed: Feed, seconds: float, folder: Path | None = None) -> list[Timing]:
        """Times models in turn until the result is tight, for `seconds` at most but no less than `MIN_ROUNDS` rounds.

        Args:
            models: the models as bytes.
            feed: what they are run on; each takes the inputs that it has.
            seconds: the longest time to spend.
            folder: what their external data is relative to.

        Raises:
            session.FAILURES: onnxruntime cannot run one of them.
        """
        key = self._key(models, feed, "compared")
        known = self._recall(key, len(models))
        if known:
            return known
        timings = _measure([self.machine.session(model, folder) for model in models], feed, seconds)
        self._remember(key, timings)
        return timings

    def _key(self, models: Sequence[bytes], feed: Feed, how: str) -> str:
        shapes = {name: (array.shape, str(array.dtype)) for name, array in feed.items()}
        key = hashlib.sha256(
            f"{how} {cpu_name()} {cores()} {self.machine} {ort.__version__} {sorted(shapes.items())}".encode()
        )
        for model in models:
            key.update(hashlib.sha256(model).digest())
        return key.hexdigest()

    def _recall(self, key: str, count: int) -> list[Timing]:
        """A result of this run or of an earlier one; empty where there is none."""
        if key not in self.memory and self.cache is not None:
            found = _read(self.cache / "timings" / f"{key}.json")
            if len(found) == count:
                self.memory[key] = found
        return self.memory.get(key, [])

    def _remember(self, key: str, timings: list[Timing]) -> None:
        self.memory[key] = timings
        if self.cache is not None:
            _write(self.cache / "timings" / f"{key}.json", timings)


def _roughly(session: ort.InferenceSession, feed: Feed, best: float) -> Timing:
    names, own = output_names(session), _own(session, feed)
    session.run(names, own)  # allocates
    times = [_time(session, names, own, 1)]
    while len(times) < ROUGH_ROUNDS and times[0] * 1000 < HOPELESS * best:
        times.append(_time(session, names, own, max(1, round(SAMPLE_S / times[0]))))
    ms = min(times) * 1000
    return Timing(ms, 0.0, 1.0, (1.0, 1.0))


def _own(session: ort.InferenceSession, feed: Feed) -> Feed:
    """The part of a feed that a model takes."""
    names = {value.name for value in session.get_inputs()}
    return {name: array for name, array in feed.items() if name in names}


def _measure(sessions: Sequence[ort.InferenceSession], feed: Feed, seconds: float) -> list[Timing]:
    contenders = []
    for session in sessions:
        names, own = output_names(session), _own(session, feed)
        session.run(names, own)  # allocates
        _time(session, names, own, 1)
        contenders.append((session, names, own, max(1, round(SAMPLE_S / _time(session, names, own, 1)))))
    samples: list[list[float]] = []
    end = time.perf_counter() + seconds
    while True:
        samples.append([_time(*contender) for contender in contenders])
        if len(samples) < MIN_ROUNDS:
            continue
        times = np.array(samples) * 1000
        timings = [_timing(times[:, i], times[:, 0] / times[:, i]) for i in range(len(contenders))]
        if time.perf_counter() > end or all(_tight(t) for t in timings):
            return timings


def _tight(timing: Timing) -> bool:
    low, high = timing.speedup_ci
    return max(high - timing.speedup, timing.speedup - low) <= TIGHT * timing.speedup


def _time(session: ort.InferenceSession, names: list[str], feed: Feed, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        session.run(names, feed)
    return (time.perf_counter() - began) / repeats


def _timing(times: NDArray[np.float64], ratios: NDArray[np.float64]) -> Timing:
    low, high = np.percentile(times, [25, 75])
    ordered = np.sort(ratios)
    outside = max(int(binom.ppf(0.025, len(ordered), 0.5)) - 1, 0)
    return Timing(
        ms=float(np.median(times)),
        spread_ms=float(high - low),
        speedup=float(np.median(ratios)),
        speedup_ci=(float(ordered[outside]), float(ordered[-1 - outside])),
    )


def _read(path: Path) -> list[Timing]:
    """A result of an earlier run; empty where there is none."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        fixed = {"remembered": True}
        return [Timing(**{**entry, "speedup_ci": tuple(entry["speedup_ci"]), **fixed}) for entry in entries]
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.info("%s is not used: %s", path, error)
        return []


def _write(path: Path, timings: Sequence[Timing]) -> None:
    """Remembers a result; a cache that cannot be written is no reason to fail."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps([asdict(t) for t in timings]), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        logger.info("The timing cache cannot be written: %s", error)
        with suppress(OSError):
            temporary.unlink()
