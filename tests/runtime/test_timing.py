from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnx_tucker.runtime.memory import Memory
from onnx_tucker.runtime.session import FAILURES, Machine
from onnx_tucker.runtime.timing import MIN_ROUNDS, Stopwatch, interleaved
from tests.helpers import conv_model

RNG = np.random.default_rng(0)
SMALL = conv_model(RNG.standard_normal((4, 4, 3, 3)).astype(np.float32), size=[16, 16]).SerializeToString()
LARGE = conv_model(RNG.standard_normal((4, 4, 3, 3)).astype(np.float32), size=[16, 16])
FEED = {"x": np.zeros((1, 4, 16, 16), np.float32)}


def heavy() -> bytes:
    """Many convolutions in a row on the small model's input."""
    made = conv_model(RNG.standard_normal((4, 4, 3, 3)).astype(np.float32), size=[16, 16], pads=[1] * 4)
    node = made.graph.node[0]
    for i in range(60):
        more = made.graph.node.add()
        more.CopyFrom(node)
        more.name, more.input[0], more.output[0] = f"n{i}", f"y{i - 1}" if i else "x", f"y{i}"
    node.input[0] = "y59"
    made.graph.node.append(node)
    del made.graph.node[0]
    return made.SerializeToString()


def test_more_work_measures_slower() -> None:
    first, second = Stopwatch(Machine(1), Memory(None)).compare([SMALL, heavy()], FEED, 0.3)
    assert first.speedup == 1
    assert first.speedup_ci == (1, 1)
    assert second.speedup < 0.5
    assert second.speedup_ci[0] <= second.speedup <= second.speedup_ci[1]
    assert second.ms > first.ms > 0


def test_results_are_remembered(tmp_path: Path) -> None:
    watch = Stopwatch(Machine(1), Memory(tmp_path))
    first = watch.compare([SMALL, SMALL], FEED, 0.05)
    assert not first[0].remembered
    assert watch.compare([SMALL, SMALL], FEED, 0.05) == first
    again = Stopwatch(Machine(1), Memory(tmp_path)).compare([SMALL, SMALL], FEED, 0.05)
    assert again == [replace(timing, remembered=True) for timing in first]
    [file] = (tmp_path / "measured").iterdir()
    recalled = Memory(tmp_path).recall(file.name)
    assert recalled is not None
    assert recalled.value[0][0]["ms"] == first[0].ms


def test_rough_times_tell_models_apart_and_are_remembered(tmp_path: Path) -> None:
    large = heavy()
    quick, slow = Stopwatch(Machine(1), Memory(tmp_path)).sift([SMALL, large], FEED)
    assert 0 < 2 * quick < slow
    assert Stopwatch(Machine(1), Memory(tmp_path)).sift([large, SMALL], FEED) == [slow, quick]


def test_what_an_earlier_run_took_counts_as_spent_once(tmp_path: Path) -> None:
    first = Stopwatch(Machine(1), Memory(tmp_path))
    assert first.spent == 0
    spent = []
    for watch in (first, Stopwatch(Machine(1), Memory(tmp_path))):
        for _ in range(2):
            watch.sift([SMALL], FEED)
            watch.compare([SMALL, SMALL], FEED, 0.01)
            watch.profile(SMALL, FEED)
        spent.append(watch.spent)
    assert spent[0] == spent[1] > 0


def test_models_take_what_they_need_of_the_input() -> None:
    assert Stopwatch(Machine(1), Memory(None)).compare([SMALL], {**FEED, "other": np.zeros(3)}, 0.01)


def test_other_threads_models_and_inputs_are_other_results(tmp_path: Path) -> None:
    for threads in (1, 2):
        Stopwatch(Machine(threads), Memory(tmp_path)).compare([SMALL], FEED, 0.01)
    Stopwatch(Machine(1), Memory(tmp_path)).compare([SMALL, SMALL], FEED, 0.01)
    Stopwatch(Machine(1), Memory(tmp_path)).compare([SMALL], {"x": np.zeros((2, 4, 16, 16), np.float32)}, 0.01)
    assert len(list((tmp_path / "measured").iterdir())) == 4


def test_a_damaged_memory_is_measured_again(tmp_path: Path) -> None:
    first = Stopwatch(Machine(1), Memory(tmp_path)).compare([SMALL], FEED, 0.01)
    [file] = (tmp_path / "measured").iterdir()
    file.write_text(file.read_text().replace("ms", "us"))
    again = Stopwatch(Machine(1), Memory(tmp_path)).compare([SMALL], FEED, 0.01)
    assert not again[0].remembered
    assert again != first
    assert Stopwatch(Machine(1), Memory(tmp_path)).compare([SMALL], FEED, 0.01)[0].remembered


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Stopwatch(Machine(1), Memory(tmp_path / "file")).compare([SMALL], FEED, 0.01)


def test_a_model_that_does_not_run_raises_one_of_the_known_failures() -> None:
    with pytest.raises(FAILURES):
        Stopwatch(Machine(), Memory(None)).compare([b"nonsense"], FEED, 0.01)
    with pytest.raises(FAILURES):
        Stopwatch(Machine(), Memory(None)).compare([SMALL], {"x": np.zeros((1, 5, 16, 16), np.float32)}, 0.01)


def test_models_take_turns_in_being_first() -> None:
    ran: list[str] = []
    interleaved([lambda: ran.append("a") or time.sleep(0.003), lambda: ran.append("b") or time.sleep(0.003)], 0)
    rounds = ran[-2 * MIN_ROUNDS :]
    assert {"".join(rounds[i : i + 2]) for i in range(0, len(rounds), 2)} == {"ab", "ba"}


def test_a_single_thread_takes_the_time_that_it_runs() -> None:
    """What others do with its core meanwhile is not the model's time."""
    clock = Machine(1).clock
    if clock is time.perf_counter:
        pytest.skip("the clock of threads is too coarse here")
    waits = interleaved([busy, lambda: time.sleep(0.005) or busy()], 0.3, clock=clock)[1]
    assert waits.speedup_ci[0] < 2  # by the wall's clock it is many times slower
    assert Machine(2).clock is time.perf_counter
    assert Machine(1, custom_op_lib=Path("other.so")).clock is time.perf_counter


def busy() -> None:
    """Half a millisecond of work."""
    end = time.thread_time() + 0.0005
    while time.thread_time() < end:
        pass


def test_a_clock_that_says_nothing_has_passed_makes_no_endless_sample() -> None:
    assert interleaved([lambda: None], 0, clock=itertools.count(0, 1e-9).__next__)[0].ms >= 0
