"""Shapes that inference does not find are read off a run on the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_tucker import observed
from onnx_tucker.cost import FLOPS
from onnx_tucker.errors import PromiseError
from onnx_tucker.job import silent
from onnx_tucker.pipeline import compress
from onnx_tucker.prepare import prepare
from onnx_tucker.runtime.session import Machine
from onnx_tucker.settings import Settings
from tests.helpers import Array, model

X = np.random.default_rng(0).standard_normal((20, 1, 6, 8)).astype(np.float32)


def branching() -> onnx.ModelProto:
    """A layer behind a branch, whose two ways give different ranks."""
    bodies = []
    for name, nodes in (
        ("squeezed", [helper.make_node("Squeeze", ["x", "one"], ["a"])]),
        ("same", [helper.make_node("Identity", ["x"], ["a"])]),
    ):
        out = helper.make_tensor_value_info("a", TensorProto.FLOAT, None)
        bodies.append(helper.make_graph(nodes, name, [], [out]))
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["channels"]),
        helper.make_node("Equal", ["channels", "one"], ["single"]),
        helper.make_node("If", ["single"], ["inner"], then_branch=bodies[0], else_branch=bodies[1]),
        helper.make_node("Conv", ["inner", "w"], ["y"], "conv", kernel_shape=[3]),
    ]
    rng = np.random.default_rng(1)
    weight = (rng.standard_normal((16, 2)) @ rng.standard_normal((2, 18))).reshape(16, 6, 3).astype(np.float32)
    return model(nodes, {"w": weight, "one": np.ones(1, np.int64)}, {"x": ["n", 1, 6, 8]}, {"y": 3})


def test_flops_behind_a_branch_are_known_with_data() -> None:
    blind = prepare(branching(), Settings(), silent)
    assert observed.unknown(blind.model, blind.context.shapes) == ["inner", "y"]
    assert blind.found[0].reading.layer is None
    job = prepare(branching(), Settings(data={"x": X}), silent)
    assert job.context.shapes["inner"] == (1, 6, 8)
    layer = job.found[0].reading.layer
    assert layer is not None
    assert FLOPS["exact"](layer) == 16 * 6 * (2 * 6 * 3 - 1)
    assert observed.unknown(job.model, job.context.shapes) == []


@pytest.mark.parametrize("data", [{}, {"x": X}])
def test_a_budget_of_flops_can_be_held_where_they_are(data: dict[str, Array]) -> None:
    options = {"ranks": "auto", "budget": "flops:0.5", "data": data, "benchmark": False}
    if not data:
        with pytest.raises(PromiseError, match="not known"):
            compress(branching(), **options)
        return
    [node] = compress(branching(), **options).report.nodes
    assert node.flops.before == 16 * 6 * (2 * 6 * 3 - 1)
    assert node.flops.after is not None
    assert 0 < node.flops.after <= node.flops.before / 2


def test_what_cannot_be_run_stays_unknown(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    with caplog.at_level("INFO", "onnx_tucker"):
        feed = {"x": X[:, :, :, 0]}
        assert observed.shapes(branching(), tmp_path, Machine(1), feed, ["inner", "y"]) == {}
    assert "shapes of 2 values stay unknown" in caplog.text


@pytest.mark.parametrize("claimed", [False, True])
def test_shapes_behind_operators_of_others_are_known_without_data(
    claimed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [
        helper.make_node("FastGelu", ["x"], ["a"], domain="com.microsoft"),
        helper.make_node("MatMul", ["a", "w"], ["y"], "product"),
    ]
    made = model(nodes, {"w": np.ones((8, 6), np.float32)}, {"x": ["n", "s", 8]}, {"y": 3})
    made.opset_import.add(domain="com.microsoft", version=1)
    if claimed:
        made.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", "s", 8]))
        monkeypatch.setattr(observed, "follow", lambda *_: False)
    [found] = prepare(made, Settings(dim={"s": 5}), silent).found
    assert found.reading.layer is not None
    assert found.reading.layer.macs == 5 * 8 * 6


def test_shapes_that_depend_on_whole_numbers_are_not_read_off_noise() -> None:
    nodes = [
        helper.make_node("Range", ["zero", "k", "step"], ["indices"]),
        helper.make_node("Gather", ["x", "indices"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["y"], "product"),
    ]
    tensors = {"w": np.ones((8, 6), np.float32), "zero": np.int64(0), "step": np.int64(1)}
    made = model(nodes, tensors, {"x": [4, 8]}, {"y": 2})
    made.graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, []))
    [found] = prepare(made, Settings(), silent).found
    assert found.reading.layer is None


@pytest.mark.parametrize("first", [1.0, -1.0])
def test_a_first_sample_of_which_nothing_is_selected_tells_no_shapes(first: float) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gather", ["x", "zero"], ["column"], axis=1),
        helper.make_node("Greater", ["column", "none"], ["selected"]),
        helper.make_node("Compress", ["x", "selected"], ["some"], axis=0),
        helper.make_node("MatMul", ["some", "w"], ["y"], "product"),
    ]
    weight = rng.standard_normal((32, 3)) @ rng.standard_normal((3, 32))
    tensors = {"w": weight.astype(np.float32), "zero": np.array(0), "none": np.float32(0)}
    made = model(nodes, tensors, {"x": ["n", 32]}, {"y": 2})
    x = rng.standard_normal((40, 32)).astype(np.float32)
    x[0, 0] = first
    report = compress(made, ranks=4, data={"x": x}, benchmark=False, threads=1).report
    assert report.nodes[0].status == "factorized"
    assert report.totals.macs.before == 32 * 32  # of one row


def test_a_layer_that_never_has_anything_to_do_is_judged_by_its_weights() -> None:
    weight = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": weight}, {"x": [0, 32]}, {"y": 2})
    report = compress(made, ranks=4, benchmark=False).report
    assert [node.status for node in report.nodes] == ["factorized"]
