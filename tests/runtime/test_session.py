from __future__ import annotations

import pytest

from onnx_tucker.runtime.session import FAILURES, Machine, cpu_name, environment, first_line
from tests.helpers import two_layers


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
