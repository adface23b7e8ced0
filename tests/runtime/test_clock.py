from __future__ import annotations

import time

import pytest

from onnx_tucker.runtime import clock


@pytest.mark.parametrize(("step", "fine"), [(1e-6, True), (0.015625, False)])
def test_one_thread_has_its_own_clock_where_that_is_fine(
    monkeypatch: pytest.MonkeyPatch, step: float, fine: bool
) -> None:
    def ticking() -> float:
        """A clock that moves at every third look."""
        looks.append(None)
        return step * (len(looks) // 3)

    looks: list[None] = []
    monkeypatch.setattr(time, "thread_time", ticking)
    clock._of_this_thread.cache_clear()
    try:
        assert clock.fitting(1) is (ticking if fine else time.perf_counter)
    finally:
        clock._of_this_thread.cache_clear()


def test_several_threads_are_timed_by_the_wall() -> None:
    assert clock.fitting(2) is time.perf_counter
