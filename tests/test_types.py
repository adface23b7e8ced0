from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onnx_tucker.errors import PlanError
from onnx_tucker.types import Chain, Choice, Plan, Stage, Window
from tests.helpers import conv_model, run


@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    auto_pad=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
    size=st.integers(10, 14),
)
def test_output_size_is_onnxruntimes(
    kernel: int, stride: int, dilation: int, pads: tuple[int, int], auto_pad: str, size: int
) -> None:
    assume(dilation == 1 or not auto_pad.startswith("SAME"))  # onnxruntime refuses
    window = Window((kernel,), (stride,), (dilation,), pads, auto_pad)
    padding = {"pads": pads} if auto_pad == "NOTSET" else {"auto_pad": auto_pad}
    made = conv_model(
        np.ones((1, 1, kernel), np.float32), size=[size], strides=[stride], dilations=[dilation], **padding
    )
    [y] = run(made, x=np.zeros((1, 1, size), np.float32))
    assert window.output_size((size,)) == y.shape[2:]


def test_a_chain_needs_factors_of_its_stages_shapes() -> None:
    stage = Stage(3, 2, Window((1,), (1,), (1,), (0, 0)))
    Chain((stage,), (np.ones((3, 2, 1)),))
    with pytest.raises(ValueError, match="do not fit"):
        Chain((stage,), (np.ones((2, 3, 1)),))


PLAN = Plan(
    (
        Choice("a", "Conv", (8, 4, 3, 3), "factorized", method="tucker2", form="direct", ranks=(2, 3)),
        Choice("b", "Gemm", (8, 4), "kept", "full rank, nothing to truncate"),
        Choice("c", "MatMul", None, "skipped", "MatMul is not factorised"),
    )
)


def test_a_plan_survives_json() -> None:
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_a_plan_prints_a_line_for_each_node() -> None:
    assert str(PLAN).splitlines()[0] == "a: tucker2 2,3"
    assert len(str(PLAN).splitlines()) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": "other/1", "nodes": []}',
        json.dumps({"schema": "onnx-tucker/plan/1"}),
        json.dumps({"schema": "onnx-tucker/plan/1", "nodes": [{"name": "a"}]}),
        json.dumps({"schema": "onnx-tucker/plan/1", "nodes": [1]}),
        PLAN.to_json().replace("factorized", "baked"),
        PLAN.to_json().replace("factorized", "kept"),
        PLAN.to_json().replace('"tucker2"', '["tucker2"]'),
        PLAN.to_json().replace('"name": "b"', '"name": "a"'),
        PLAN.to_json().replace("[\n    2,", "[\n    2.5,"),
        PLAN.to_json().replace("[\n    2,", "[\n    1e999,"),
        PLAN.to_json().replace('"op"', '"operator"'),
    ],
)
def test_malformed_plans_are_refused(text: str) -> None:
    with pytest.raises(PlanError, match=r"^The plan .*\.$"):
        Plan.from_json(text)
