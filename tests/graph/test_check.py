from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.errors import ModelError
from onnx_tucker.graph.check import broken, fatal, invalid, weight_bytes
from tests.helpers import model, two_layers


def test_what_the_checker_says(tmp_path: Path) -> None:
    assert invalid(two_layers(), tmp_path) is None
    broken = two_layers()
    broken.graph.node[1].input[0] = "nowhere"
    assert "nowhere" in str(invalid(broken, tmp_path))


def test_external_data_is_checked_without_it(tmp_path: Path) -> None:
    onnx.save_model(two_layers(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    made = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert invalid(made, tmp_path) is None
    made.graph.node[1].input[0] = "nowhere"
    assert "nowhere" in str(invalid(made, tmp_path))
    assert (
        weight_bytes(made) == weight_bytes(two_layers()) == sum(len(t.raw_data) for t in two_layers().graph.initializer)
    )


def test_what_onnxruntime_does_not_survive_is_kept_from_it() -> None:
    made = two_layers()
    made.graph.node[0].op_type = "ConvTranspose"
    made.graph.node[0].attribute.append(helper.make_attribute("group", 0))
    assert fatal(made) == "The model is not valid: the node 'conv' has 0 groups."
    with pytest.raises(ModelError, match="0 groups"):
        compress(made, benchmark=False)


def test_outputs_need_not_say_of_which_shape_they_are(tmp_path: Path) -> None:
    made = two_layers()
    made.graph.output[0].type.tensor_type.ClearField("shape")
    assert "shape" in str(invalid(made, tmp_path))
    assert broken(made, tmp_path) is None
    made.graph.input[0].type.tensor_type.ClearField("shape")
    assert broken(made, tmp_path) is None
    made.graph.output.append(onnx.ValueInfoProto(name="never", type=made.graph.output[0].type))
    assert "never" in str(broken(made, tmp_path))
    made.graph.input[0].CopyFrom(two_layers().graph.input[0])
    del made.graph.output[1]
    made.graph.node[1].input[0] = "nowhere"
    assert "nowhere" in str(broken(made, tmp_path))


def test_attributes_are_checked_without_the_shape_of_an_input() -> None:
    made = two_layers()
    made.graph.input[0].type.tensor_type.ClearField("shape")
    made.graph.node[0].attribute.append(helper.make_attribute("dilations", 2))  # which are several
    with pytest.raises(ModelError, match="dilations"):
        compress(made, benchmark=False)


def test_a_model_that_cannot_be_run_is_factorised_without_the_shape_of_its_output() -> None:
    made = two_layers()
    made.graph.output[0].type.tensor_type.ClearField("shape")
    made.graph.node.append(helper.make_node("Mine", ["y"], ["z"], "mine", domain="mine"))
    made.opset_import.append(helper.make_opsetid("mine", 1))
    made.graph.output[0].name = "z"
    result = compress(made, ranks=3, benchmark=False)
    assert {node.status for node in result.report.nodes} == {"factorized"}


def test_what_others_call_a_group_is_none() -> None:
    for op_type, domain, group, told in (
        ("AllReduce", "mine", "world", False),
        ("Gather", "mine", 0, False),
        ("Conv", "", 0, True),
    ):
        made = two_layers()
        made.opset_import.append(helper.make_opsetid("mine", 1))
        made.graph.node.append(helper.make_node(op_type, ["x", "x"], ["z"], "z", domain=domain, group=group))
        assert bool(fatal(made)) == told


def test_what_onnxruntime_dies_of_in_half_precision_is_refused() -> None:
    for order, dtype, told in (
        ([1, 0, 2], np.float16, True),
        ([0, 2, 1], np.float16, False),
        ([1, 0, 2], np.float32, False),
    ):
        nodes = [
            helper.make_node("Transpose", ["x"], ["t"], perm=order),
            helper.make_node("MatMul", ["t", "w"], ["y"], "mm"),
        ]
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        made = model(nodes, {"w": np.ones((8, 8), dtype)}, {"x": [8, 8, 8]}, {"y": 3}, dtype=kind)
        assert bool(fatal(made)) == told
        if told:
            with pytest.raises(ModelError, match="single precision"):
                compress(made)
