from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.factor import METHODS
from onnx_tucker.fitting.factorise import factorise
from onnx_tucker.graph.nodes import Names
from onnx_tucker.job import silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from onnx_tucker.types import Basis, Candidate
from tests.helpers import conv_model, look, model, reasons, relative, run, two_layers

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 4, 3)).astype(np.float32)


def test_sites_are_found_in_order() -> None:
    assert reasons(two_layers()) == {"conv": "", "fc": ""}


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (WEIGHT * np.nan, "NaN"),
        (WEIGHT * 0, "all zeros"),
        (np.zeros((0, 4, 3), np.float32), "empty"),
    ],
)
def test_weights_that_cannot_be_factorised(weight: np.ndarray, words: str) -> None:
    assert words in reasons(conv_model(weight, bias=False))["conv"]


def test_a_computed_weight() -> None:
    made = conv_model(WEIGHT)
    made.graph.node.insert(0, helper.make_node("Dropout", ["w"], ["w2"]))
    made.graph.node[1].input[1] = "w2"
    assert "computed" in reasons(made)["conv"]
    assert look(made)[1][0].reading.params is None  # it may be stored


@pytest.mark.parametrize(
    ("node", "weight", "given"),
    [
        (helper.make_node("Conv", ["x", "w", "b"], ["y"], "node", group=2, strides=[2]), [6, 2, 3], {"x": [5, 4, 9]}),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"], "node", strides=[2]), [4, 6, 3], {"x": [5, 4, 9]}),
        (helper.make_node("Gemm", ["x", "w", "b"], ["y"], "node", transB=1, beta=2.0), [6, 4], {"x": [5, 4]}),
    ],
)
def test_a_weight_that_follows_from_inputs(
    node: onnx.NodeProto, weight: list[int], given: dict[str, list[int]]
) -> None:
    """It is counted as a constant one would be, but for the weights, of which the node has none."""
    tensors = {"w": RNG.standard_normal(weight).astype(np.float32), "b": np.ones(6, np.float32)}
    [constant] = look(model([node], tensors, given, {"y": len(weight)}))[1]
    del tensors["w"]
    [found] = look(model([node], tensors, {**given, "w": weight}, {"y": len(weight)}))[1]
    assert not found.is_site
    assert "computed" in found.reading.result.reason
    assert found.reading.layer == constant.reading.layer is not None
    assert found.reading.params == 0
    [unknown] = look(model([node], tensors, {**given, "w": ["n"] * len(weight)}, {"y": len(weight)}))[1]
    assert (unknown.reading.layer, unknown.reading.params) == (None, 0)


def twice(second: str = "Conv") -> onnx.ModelProto:
    """A Conv, and another node that takes the same weight."""
    made = conv_model(WEIGHT)
    made.graph.node.add().CopyFrom(helper.make_node(second, ["x", "w"][: 1 + (second == "Conv")], ["z"], "again"))
    if second != "Conv":
        made.graph.node[1].input[0] = "w"
    made.graph.output.add().CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 3))
    return made


def test_a_shared_weight() -> None:
    found = look(twice())[1]
    assert [(f.label, f.group, f.reading.params) for f in found] == [("conv", "conv", 72), ("again", "conv", 0)]
    assert reasons(twice()) == {"conv": "", "again": ""}
    assert "not everywhere" in reasons(twice("Neg"))["conv"]


def test_a_weight_that_is_also_an_output() -> None:
    made = conv_model(WEIGHT)
    made.graph.output.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHT.shape))
    assert "several places" in reasons(made)["conv"]


def test_an_overridable_weight() -> None:
    made = conv_model(WEIGHT)
    made.graph.input.add().CopyFrom(helper.make_tensor_value_info("w", TensorProto.FLOAT, WEIGHT.shape))
    assert "override" in reasons(made)["conv"]
    made.ir_version = 3  # there, initializers have to be inputs
    assert reasons(made)["conv"] == ""


def test_operators_that_are_not_covered_are_listed_and_counted() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["a"], "matmul"),
        helper.make_node("Unsqueeze", ["a", "axis"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "t"], ["c"], "up", strides=[2]),
        helper.make_node("LSTM", ["x3", "lw", "lr"], ["d"], "lstm", hidden_size=3),
        helper.make_node("MatMul", ["a", "a2"], ["e"], "product"),
    ]
    rng = np.random.default_rng(0)
    tensors = {
        "m": rng.standard_normal((8, 6)).astype(np.float32),
        "axis": np.array([0]),
        "t": rng.standard_normal((5, 2, 3)).astype(np.float32),
        "lw": rng.standard_normal((1, 12, 7)).astype(np.float32),
        "lr": rng.standard_normal((1, 12, 3)).astype(np.float32),
    }
    made = model(nodes, tensors, {"x": [5, 8], "x3": [2, 1, 7], "a2": [6, 2]}, {"c": 3, "d": 4, "e": 2})
    found = {f.label: f.reading for f in look(made)[1]}
    assert list(found) == ["matmul", "up", "lstm", "product"]
    assert found["matmul"].layer is not None
    assert found["matmul"].layer.macs == 5 * 48
    assert found["up"].layer is not None
    assert found["up"].layer.macs == 6 * 5 * 2 * 3
    assert found["lstm"].params == 12 * 7 + 12 * 3
    assert found["lstm"].layer is not None
    assert found["lstm"].layer.macs == 2 * (12 * 7 + 12 * 3)
    assert found["product"].params == 0
    assert found["product"].layer is not None


@pytest.mark.parametrize("directions", [1, 2])
def test_biases_and_states_of_recurrent_nodes_are_no_weights(directions: int) -> None:
    node = helper.make_node(
        "LSTM",
        ["x", "w", "r", "b", "", "h"],
        ["y"],
        "lstm",
        hidden_size=3,
        direction=["forward", "bidirectional"][directions - 1],
    )
    shapes = {"w": (12, 7), "r": (12, 3), "b": (24,), "h": (5, 3)}
    tensors = {name: np.ones((directions, *shape), np.float32) for name, shape in shapes.items()}
    [found] = look(model([node], tensors, {"x": [2, 5, 7]}, {"y": 4}))[1]
    assert found.reading.params == directions * (12 * 7 + 12 * 3)
    assert found.reading.bias_params == directions * 24


def fed_by(*nodes: onnx.NodeProto, ir_version: int = 8, given: bool = False) -> onnx.ModelProto:
    """Products of an input, and of a value that does not follow from it."""
    products = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "varying"),
        helper.make_node("MatMul", ["stored", "w"], ["b"], "fixed"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    tensors = {"w": RNG.standard_normal((4, 6)).astype(np.float32), "table": np.ones((5, 4), np.float32)}
    made = model([*nodes, *products], tensors, {"x": [5, 4]}, {"y": 2})
    if given:
        made.graph.input.append(helper.make_tensor_value_info("table", TensorProto.FLOAT, [5, 4]))
    made.ir_version = ir_version
    return made


@pytest.mark.parametrize(
    ("node", "given", "varies"),
    [
        (helper.make_node("Erf", ["table"], ["stored"]), False, False),
        (helper.make_node("MatMul", ["table", "table2"], ["stored"], "by"), False, False),
        (helper.make_node("Erf", ["table"], ["stored"]), True, True),
        (helper.make_node("RandomNormalLike", ["table"], ["stored"]), False, True),
        (helper.make_node("Erf", ["table"], ["stored"], domain="mine"), False, True),
        (helper.make_node("Add", ["table", "x"], ["stored"]), False, True),
    ],
)
def test_what_is_the_same_on_every_run_is_left_alone(node: onnx.NodeProto, given: bool, varies: bool) -> None:
    made = fed_by(node, given=given)
    made.graph.initializer.append(numpy_helper.from_array(np.eye(4, dtype=np.float32), "table2"))
    made.graph.initializer.append(numpy_helper.from_array(np.ones((4, 6), np.float32), "w2"))
    made.graph.node[-2].input[1] = "w2"
    why = reasons(made)
    assert why["varying"] == ""
    assert why["fixed"] == "" if varies else "same on every run" in why["fixed"]
    fixed = next(found.reading for found in look(made)[1] if found.label == "fixed")
    assert varies or (fixed.layer is not None and fixed.layer.macs == 0)
    if given:
        assert "same on every run" in reasons(made, freeze_initializer_inputs=True)["fixed"]


def test_what_is_added_may_vary_too() -> None:
    made = model(
        [helper.make_node("Gemm", ["t", "w", "x"], ["y"], "gemm")],
        {"t": np.ones((5, 4), np.float32), "w": RNG.standard_normal((4, 6)).astype(np.float32)},
        {"x": [5, 6]},
        {"y": 2},
    )
    assert reasons(made) == {"gemm": ""}


def test_products_of_integers_are_listed() -> None:
    nodes = [
        helper.make_node("ConvInteger", ["x", "c"], ["a"], "conv"),
        helper.make_node("QLinearMatMul", ["q", "s", "z", "m", "s", "z", "s", "z"], ["b"], "product"),
        helper.make_node("Packed", ["q", "m"], ["d"], "packed", domain="mine"),
    ]
    tensors = {"c": np.ones((4, 3, 3), np.uint8), "m": np.ones((5, 6), np.uint8), "s": np.float32(1), "z": np.uint8(0)}
    made = model(nodes, tensors, {"x": [1, 3, 9], "q": [2, 5]}, {"a": 3, "b": 2}, dtype=TensorProto.UINT8)
    kinds = {"conv": "ConvInteger", "product": "QLinearMatMul", "packed": "Packed"}
    assert reasons(made) == {name: f"{kind} is not factorised" for name, kind in kinds.items()}


def test_nodes_in_bodies_are_found_and_those_in_functions_skipped() -> None:
    body = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["inner"], "conv")],
        "body",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    made = model(
        [helper.make_node("If", ["flag"], ["y"], "choice", then_branch=body, else_branch=body)],
        {"w": WEIGHT},
        {"x": [1, 4, 8]},
        {"y": 3},
    )
    made.graph.input.add().CopyFrom(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    assert reasons(made) == {"choice/then_branch/conv": "", "choice/else_branch/conv": ""}
    function = helper.make_function(
        "mine", "F", ["a", "b"], ["c"], [helper.make_node("MatMul", ["a", "b"], ["c"])], [helper.make_opsetid("", 18)]
    )
    made.functions.append(function)
    assert "inside the model-local function mine.F" in reasons(made)["mine.F/c"]


def test_nodes_without_a_name_or_with_a_shared_one_go_by_their_output() -> None:
    made = two_layers()
    for node in made.graph.node:
        node.name = "same" if node.op_type in ("Conv", "Gemm") else ""
    assert list(reasons(made)) == ["c", "y"]


def test_fresh_names_are_in_no_scope() -> None:
    made = two_layers()
    inner = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["deep"])], "g", [], [], [numpy_helper.from_array(WEIGHT, "deep_1")]
    )
    made.graph.node.append(helper.make_node("Custom", ["x"], ["z"], domain="d", body=inner))
    names = Names(made)
    assert names.fresh("deep") == "deep_2"
    assert names.fresh("deep") == "deep_3"
    assert names.fresh("new") == "new"


@pytest.mark.parametrize("other", [{"strides": [2, 2]}, {"dilations": [2, 2]}, {"pads": [1] * 4}, {}])
@pytest.mark.parametrize("basis", ["weights", "outputs"])
def test_a_chain_is_moved_as_each_node_of_its_weight_is(other: dict[str, Any], basis: Basis) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Conv", ["x", "w"], ["b"], "second", **other),
    ]
    rng = np.random.default_rng(0)
    weight = np.einsum("or,rikl->oikl", rng.standard_normal((8, 3)), rng.standard_normal((3, 6, 3, 3)))
    made = model(nodes, {"w": weight.astype(np.float32)}, {"x": ["n", 6, 9, 9]}, {"a": 4, "b": 4})
    x = rng.standard_normal((4, 6, 9, 9)).astype(np.float32)
    job = prepare(made, Settings(data={"x": x}), silent)
    stages = METHODS["tucker1_out"].stages(job.found[0].site.stage, (3,))
    planned = dict.fromkeys(("first", "second"), Candidate("tucker1_out", (3,), stages, 0.0))
    slim = factorise(job, planned, basis).model
    assert len(slim.graph.node) == 4
    for exact, y in zip(run(made, x=x), run(slim, x=x), strict=True):
        assert exact.shape == y.shape
        assert relative(exact, y) < 1e-5
