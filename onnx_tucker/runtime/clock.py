"""The clock that fits what is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

FINE_S = 1e-4
"""The longest steps of a clock by which runs of milliseconds can be timed."""
STEPS = 3
"""Steps of a clock that are looked at; a single one may hold what the system did meanwhile."""


def fitting(threads: int) -> Callable[[], float]:
    """A clock of seconds for work on so many threads.

    A single thread is timed by its own clock, which stands still while other programs have its core; several threads
    wait for one another, so that only the wall's clock tells how long they take.
    """
    return _of_this_thread() if threads == 1 else time.perf_counter


@cache
def _of_this_thread() -> Callable[[], float]:
    """The system's clock of this thread; the wall's where there is none that is fine enough, as on Windows."""
    clock = getattr(time, "thread_time", time.perf_counter)
    steps: list[float] = []
    while len(steps) < STEPS:
        first = later = clock()
        while later == first:
            later = clock()
        steps.append(later - first)
    return clock if min(steps) <= FINE_S else time.perf_counter
