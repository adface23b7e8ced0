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
