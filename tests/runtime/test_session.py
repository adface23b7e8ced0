from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnx_tucker.runtime.session import FAILURES, Machine, cpu_name, environment, first_line, run_within
from tests.helpers import model, session, two_layers


def test_the_environment_names_what_times_depend_on() -> None:
    found = environment(Machine(2))
    assert found["threads"] == 2
    assert found["cpu"] == cpu_name() != ""
    assert {"onnx_tucker", "onnx", "onnxruntime", "numpy", "tensorly", "python", "platform"} <= set(found)


def test_failures_are_told_in_a_line() -> None:
    with pytest.raises(FAILURES) as caught:
        Machine().session(two_layers().SerializeToString()[:-3])
    assert "\n" not in first_line(caught.value)
    assert first_line(ValueError("")) == "ValueError"
    assert (
        first_line(ValueError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not : find\nmore"))
        == "Could not : find"
    )


def test_threads_are_those_of_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    content = two_layers().SerializeToString()
    for allowed, wanted in ((8, 0), (3, 3)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=allowed: set(range(n)), raising=False)
        monkeypatch.setattr("os.cpu_count", lambda: 8)
        made = [Machine(threads).session(content).get_session_options() for threads in (0, 2)]
        assert [options.intra_op_num_threads for options in made] == [wanted, 2]


def test_memory_of_runs_is_kept_only_where_asked_for() -> None:
    content = two_layers().SerializeToString()
    for arena in (True, False):
        assert Machine().session(content, arena=arena).get_session_options().enable_cpu_mem_arena is arena


def test_a_model_that_never_ends_is_ended() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Neg", ["v"], ["w"])],
        "body",
        [
            helper.make_tensor_value_info("i", 7, []),
            helper.make_tensor_value_info("go", 9, []),
            helper.make_tensor_value_info("v", 1, [2]),
        ],
        [helper.make_tensor_value_info("go_on", 9, []), helper.make_tensor_value_info("w", 1, [2])],
    )
    node = helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)
    endless = session(model([node], {"true": np.array(True)}, {"x": [2]}, {"y": 1}))
    with pytest.raises(RuntimeError, match="still running"):
        run_within(endless, {"x": np.zeros(2, np.float32)}, 0.2)
