from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress, prepare
from onnx_tucker.errors import ModelError
from onnx_tucker.graph.check import broken, fatal, invalid, merges, weight_bytes
from onnx_tucker.runtime.session import operators
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


def test_what_a_model_says_of_itself_is_checked_with_external_data_too(tmp_path: Path) -> None:
    onnx.save_model(two_layers(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    made = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert invalid(made, tmp_path) is None
    for _ in range(2):
        made.metadata_props.add(key="k", value="v")
    assert "duplicate keys" in str(invalid(made, tmp_path))


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


def test_a_layer_without_outputs_is_no_model() -> None:
    made = two_layers()
    made.graph.node[0].domain = "com.microsoft"
    made.graph.node[0].ClearField("output")
    with pytest.raises(ModelError):
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


@pytest.mark.parametrize(
    ("dtype", "made_by", "merged"),
    [
        (np.float16, "", False),
        (np.float16, "Identity", False),
        (np.float16, "Transpose", False),
        (np.float32, "Cast", False),
        (np.float32, "", True),
    ],
)
def test_onnxruntime_survives_transposes_in_half_precision(dtype: type, made_by: str, merged: bool) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "mm"),
    ]
    if made_by:
        to = {"to": onnx.TensorProto.FLOAT16} if made_by == "Cast" else {}
        nodes.insert(0, helper.make_node(made_by, ["v"], ["w"], **to))
    kind = onnx.TensorProto.FLOAT if merged else onnx.TensorProto.FLOAT16
    weight = np.outer(np.arange(1.0, 9), np.ones(8)).astype(dtype)
    made = model(nodes, {"v" if made_by else "w": weight}, {"x": [8, 8, 8]}, {"y": 3}, dtype=kind)
    assert merges(made) == merged
    result = compress(made, ranks=1, benchmark=False)
    assert [node.status for node in result.report.nodes] == ["factorized"]
    assert result.report.fidelity is not None
    assert result.report.fidelity.outputs


def test_sizes_below_zero_are_free(tmp_path: Path) -> None:
    made = two_layers()
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = -1
    content = made.SerializeToString()
    assert invalid(made, tmp_path) is None
    assert made.SerializeToString() == content


def test_what_only_onnxruntime_has_in_the_standard_domain_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = two_layers()
    made.graph.node.append(helper.make_node("SimplifiedLayerNormalization", ["y", "g"], ["z"], "norm"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(48, np.float32), "g"))
    made.graph.output[0].name = "z"
    assert "No Op registered" in str(broken(made, tmp_path))
    assert broken(made, tmp_path, operators()) is None
    made.graph.node[-1].input[0] = "nowhere"
    assert "nowhere" in str(broken(made, tmp_path, operators()))
    made.graph.node[-1].input[0] = "y"
    monkeypatch.setattr(prepare, "LIMIT", 0)  # so that onnxruntime is not asked
    onnx.save(made, tmp_path / "in.onnx")
    report = compress(tmp_path / "in.onnx", ranks=3, benchmark=False).report
    assert {node.status for node in report.nodes} == {"factorized"}
