"""Comparing the speed of models: run in turn, in one process, on the same input.

Machines drift, so only ratios of runs that stand side by side mean anything. The runs of all contenders alternate, in
another order in each round, lest they fall into step with what else runs; the speed-up is the median over rounds of the
ratio to the first, with a distribution-free 95 % confidence interval (order statistics of the binomial distribution).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import scipy
from numpy.typing import NDArray

from onnx_tucker.runtime.memory import Memory, Recalled
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, cores, cpu_name, first_line, output_names

logger = logging.getLogger(__name__)

SAMPLE_S = 0.002
"""A sample shorter than this is made of several runs, so that the clock's and the scheduler's grain vanish."""
MIN_ROUNDS = 7
"""The least number of rounds for which the 95 % interval exists."""
TIGHT = 0.03
"""Rounds go on until the intervals of all speed-ups are this narrow, unless the caller says otherwise."""
ROUGH_ROUNDS = 3
"""Runs from which a rough time is taken."""
HOPELESS = 2.0
"""A model whose first run takes this many times the least time so far is not run again."""
NOISY = 0.3
"""Interquartile range over median from which on a machine is called busy."""
PROFILE_RUNS, PROFILE_S = (3, 7), 1.0
"""Runs of which the times of single operators are the medians, at least and at most, and seconds for them."""
SHORTEST_S = 1e-6
"""No model runs faster, though a clock may say so."""
KERNEL = "_kernel_time"
"""How onnxruntime's profile marks the run of an operator."""


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

    @property
    def noisy(self) -> bool:
        """Whether the times differ so much that something else must have run on the machine."""
        return self.spread_ms > NOISY * self.ms


def warn_if_noisy(timings: Sequence[Timing]) -> None:
    """Says so where something else must have run on the machine while whole models were timed."""
    if any(timing.noisy for timing in timings):
        when = "was busy when this was measured (--no-cache measures anew)" if timings[0].remembered else "is busy"
        logger.warning("The machine %s: times of the whole model differ by more than %.0f %%.", when, 100 * NOISY)


class Step(NamedTuple):
    """One operator as onnxruntime ran it: its name there, its type, and the median of its times."""

    name: str
    op: str
    ms: float


class Stopwatch:
    """Times models on one machine setting, with a memory of what it has timed before.

    Args:
        machine: how sessions run.
        memory: of earlier times.

    Attributes:
        spent: seconds that measurements have taken, those that an earlier run took for what is remembered too: what is
            left out for want of time is then the same.
    """

    def __init__(self, machine: Machine, memory: Memory) -> None:
        self.machine = machine
        self.spent = 0.0
        self._memory, self._counted = memory, set[str]()

    def sift(self, models: Sequence[bytes], feed: Feed) -> list[float]:
        """Rough times of models in milliseconds, by which to leave out those that cannot win.

        A model that takes far longer than the fastest so far is run once only; one that does not run takes forever.

        Args:
            models: the models as bytes.
            feed: what they are run on; each takes the inputs that it has.
        """
        rough: list[float] = []
        for model in models:
            key = self._key([model], feed, "rough")
            recalled = self._recall(key)
            if recalled is None:
                began = time.perf_counter()
                try:
                    run = _runner(self.machine.session(model), feed)
                    ms = _roughly(run, min(rough, default=math.inf), self.machine.clock)
                    self._remember(key, ms, began)
                except FAILURES as error:
                    logger.info("a candidate does not run: %s", first_line(error))
                    ms = math.inf
            else:
                ms = recalled.value
            rough.append(ms)
        return rough

    def compare(
        self,
        models: Sequence[bytes],
        feed: Feed,
        seconds: float,
        folder: Path | None = None,
        tight: float = TIGHT,
    ) -> list[Timing]:
        """Times models in turn until the result is tight, for `seconds` at most but no less than `MIN_ROUNDS` rounds.

        Args:
            models: the models as bytes.
            feed: what they are run on; each takes the inputs that it has.
            seconds: the longest time to spend.
            folder: what their external data is relative to.
            tight: how narrow the intervals of the speed-ups are to be.

        Raises:
            session.FAILURES: onnxruntime cannot run one of them.
        """
        key = self._key(models, feed, f"compared to {tight}")
        recalled = self._recall(key)
        if recalled is not None:
            known = (Timing(**{**entry, "speedup_ci": tuple(entry["speedup_ci"])}) for entry in recalled.value)
            return [replace(timing, remembered=recalled.earlier) for timing in known]
        began = time.perf_counter()
        timings = self.race([self.machine.session(model, folder) for model in models], feed, seconds, tight)
        self._remember(key, [asdict(timing) for timing in timings], began)
        return timings

    def race(
        self, sessions: Sequence[ort.InferenceSession], feed: Feed, seconds: float, tight: float = TIGHT
    ) -> list[Timing]:
        """Times sessions in turn as `compare` does models, but always anew, whatever is remembered."""
        return interleaved([_runner(session, feed) for session in sessions], seconds, tight, self.machine.clock)

    def profile(self, model: bytes, feed: Feed, folder: Path | None = None) -> list[Step]:
        """The operators of a model in the order in which onnxruntime runs them, with their times within the model.

        Empty where what runs depends on values.

        Args:
            model: the model as bytes.
            feed: what it is run on.
            folder: what its external data is relative to.

        Raises:
            session.FAILURES: onnxruntime cannot run it.
        """
        key = self._key([model], feed, "profiled")
        recalled = self._recall(key)
        if recalled is not None:
            return [Step(*entry) for entry in recalled.value]
        began = time.perf_counter()
        steps = _profiled(self.machine, model, feed, folder)
        self._remember(key, steps, began)
        return steps

    def _recall(self, key: str) -> Recalled | None:
        recalled = self._memory.recall(key)
        if recalled is None:
            return None
        value, seconds = recalled.value
        self._count(key, seconds)
        return Recalled(value, recalled.earlier)

    def _remember(self, key: str, value: object, began: float) -> None:
        seconds = time.perf_counter() - began
        self._count(key, seconds)
        self._memory.remember(key, [value, seconds])

    def _count(self, key: str, seconds: float) -> None:
        if key not in self._counted:
            self._counted.add(key)
            self.spent += seconds

    def _key(self, models: Sequence[bytes], feed: Feed, how: str) -> str:
        shapes = {name: (array.shape, str(array.dtype)) for name, array in feed.items()}
        key = hashlib.sha256(
            f"{how} {cpu_name()} {cores()} {self.machine} {self.machine.clock.__name__} {ort.__version__} "
            f"{sorted(shapes.items())}".encode()
        )
        for model in models:
            key.update(hashlib.sha256(model).digest())
        return key.hexdigest()


def interleaved(
    runs: Sequence[Callable[[], object]],
    seconds: float,
    tight: float = TIGHT,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Timing]:
    """Times functions in turn until the result is tight, for `seconds` at most but no less than `MIN_ROUNDS` rounds.

    Args:
        runs: what is timed; speed-ups are over the first.
        seconds: the longest time to spend.
        tight: how narrow the intervals of the speed-ups are to be, relative to the speed-up, on either side.
        clock: in seconds.
    """
    contenders = []
    for run in runs:
        run()  # allocates
        first = _time(run, 1, clock)
        contenders.append((run, _repeats(first if first >= SAMPLE_S else _time(run, 1, clock))))
    samples: list[list[float]] = []
    end = time.perf_counter() + seconds
    order, shuffled = list(range(len(contenders))), random.Random(0)
    while True:
        shuffled.shuffle(order)  # who runs first pays for what the others left in the caches
        taken = {i: _time(*contenders[i], clock) for i in order}
        samples.append([taken[i] for i in range(len(contenders))])
        if len(samples) < MIN_ROUNDS:
            continue
        times = np.array(samples) * 1000
        if time.perf_counter() > end or all(_half_width(times[:, 0] / each) <= tight for each in times.T):
            return [_timing(each, times[:, 0] / each) for each in times.T]


def _runner(session: ort.InferenceSession, feed: Feed) -> Callable[[], object]:
    """Runs a model on the part of a feed that it takes."""
    names = {value.name for value in session.get_inputs()}
    own = {name: array for name, array in feed.items() if name in names}
    return partial(session.run, output_names(session), own)


def _roughly(run: Callable[[], object], best: float, clock: Callable[[], float]) -> float:
    run()  # allocates
    times = [_time(run, 1, clock)]
    while len(times) < ROUGH_ROUNDS and times[0] * 1000 < HOPELESS * best:
        times.append(_time(run, _repeats(times[0]), clock))
    return min(times) * 1000


def _profiled(machine: Machine, model: bytes, feed: Feed, folder: Path | None) -> list[Step]:
    with tempfile.TemporaryDirectory() as place:
        session = machine.session(model, folder, profile=Path(place) / "profile")
        run, number = _runner(session, feed), 0
        run()  # allocates
        least, most = PROFILE_RUNS
        end = time.perf_counter() + PROFILE_S
        while number < least or (number < most and time.perf_counter() < end):
            run()
            number += 1
        ran = _events(session)
    count = len(ran) // (1 + number)
    runs = [ran[i : i + count] for i in range(0, len(ran), count or 1)]
    names = [[event["name"] for event in run] for run in runs]
    if not runs or any(other != names[0] for other in names):
        return []  # nothing runs, or what runs depends on values
    times = np.median([[event["dur"] / 1000 for event in run] for run in runs[1:]], axis=0)
    return [
        Step(event["name"].removesuffix(KERNEL), event["args"]["op_name"], float(ms))
        for event, ms in zip(ran[:count], times, strict=True)
    ]


def nodes_run(machine: Machine, model: bytes, feeds: Iterable[Feed], folder: Path | None) -> set[str]:
    """Names of the nodes of a model that run on some inputs, those in bodies of others too.

    Raises:
        session.FAILURES: onnxruntime cannot run it.
    """
    with tempfile.TemporaryDirectory() as place:
        session = machine.session(model, folder, profile=Path(place) / "profile", optimised=False)
        for feed in feeds:
            session.run(None, dict(feed))
        return {event["name"].removesuffix(KERNEL) for event in _events(session)}


def _events(session: ort.InferenceSession) -> list[dict[str, Any]]:
    """What a session that profiles has run, in order."""
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith(KERNEL)]


def _half_width(ratios: NDArray[np.float64]) -> float:
    """The longer side of the speed-up's interval, relative to the speed-up."""
    speedup, (low, high) = _speedup(ratios)
    return max(high - speedup, speedup - low) / speedup


def _repeats(seconds: float) -> int:
    """Runs of so many seconds that make a sample."""
    return max(1, round(SAMPLE_S / max(seconds, SHORTEST_S)))


def _time(run: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(repeats):
        run()
    return (clock() - began) / repeats


def _speedup(ratios: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    """The median of ratios, and its interval."""
    ordered = np.sort(ratios)
    outside = max(math.ceil(scipy.special.bdtrik(0.025, len(ordered), 0.5)) - 1, 0)  # the binomial's quantile
    return float(np.median(ordered)), (float(ordered[outside]), float(ordered[-1 - outside]))


def _timing(times: NDArray[np.float64], ratios: NDArray[np.float64]) -> Timing:
    low, high = np.percentile(times, [25, 75])
    return Timing(float(np.median(times)), float(high - low), *_speedup(ratios))
