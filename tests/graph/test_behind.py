from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from onnx_tucker.factor.sight import Sight
from onnx_tucker.graph.behind import scores, sight
from onnx_tucker.job import silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from tests.helpers import model

RNG = np.random.default_rng(0)
LOW, HIGH = np.array(-1, np.float32), np.array(6, np.float32)


def seen(*steps: tuple[str, list[str], dict[str, Any]], opset: int = 18, also: bool = False) -> Sight | None:
    """What is seen of a convolution's output from behind the given nodes."""
    weight = np.ones((2, 2, 1, 1), np.float32)
    nodes, value = [helper.make_node("Conv", ["x", "w"], ["v0"], "conv")], "v0"
    for i, (op, further, attributes) in enumerate(steps):
        nodes.append(helper.make_node(op, [value, *further], [f"v{i + 1}"], f"{op}{i}", **attributes))
        value = f"v{i + 1}"
    if also:
        nodes.append(helper.make_node("Neg", ["v0"], ["other"], "neg"))
    outputs = {value: 4} | ({"other": 4} if also else {})
    tensors = {"w": weight, "low": LOW, "high": HIGH}
    made = model(nodes, tensors, {"x": [1, 2, 8, 8]}, outputs, opset=opset)
    job = prepare(made, Settings(), silent)
    return sight(job.view, "v0")


RELU: tuple[str, list[str], dict[str, Any]] = ("Relu", [], {})


def pool(**attributes: Any) -> tuple[str, list[str], dict[str, Any]]:
    return "MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]} | attributes


def test_rectifiers_clips_and_pools_are_seen_through() -> None:
    assert seen(RELU) == Sight(0.0)
    assert seen(RELU, pool()) == seen(pool(), RELU) == Sight(0.0, math.inf, (2, 2))
    assert seen(("Clip", ["low", "high"], {})) == Sight(-1.0, 6.0)
    assert seen(("Clip", ["", "high"], {}), RELU, pool()) == Sight(0.0, 6.0, (2, 2))
    assert seen(("Clip", [], {"max": 6.0}), opset=10) == Sight(high=6.0)


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [("Neg", [], {}), ("Mul", ["high"], {}), ("Identity", [], {})],
        [("Exp", [], {})],
        [("Softmax", [], {})],
        [pool(strides=[1, 1])],
        [pool(pads=[0, 0, 1, 1])],
        [pool(dilations=[2, 2])],
        [pool(ceil_mode=1)],
        [pool(auto_pad="SAME_UPPER")],
    ],
    ids=str,
)
def test_what_else_there_is_sees_everything(steps: list[tuple[str, list[str], dict[str, Any]]]) -> None:
    assert seen(*steps) is None


def test_a_normalisation_is_seen_through_where_it_is_of_the_channels() -> None:
    tensors = {name: RNG.random(2).astype(np.float32) for name in "stmu"}
    for op, axes, axis, through in (
        ("Conv", 3, 1, True),
        ("MatMul", 2, -1, True),
        ("MatMul", 2, -2, False),
        ("MatMul", 3, -1, False),
    ):
        weight = np.ones((2, 2, 1) if op == "Conv" else (2, 2), np.float32)
        nodes = [
            helper.make_node(op, ["x", "w"], ["v0"], "node"),
            helper.make_node("BatchNormalization", ["v0", *"stmu"], ["n"], "norm"),
            helper.make_node("Relu", ["n"], ["y"], "relu"),
        ]
        made = model(nodes, {"w": weight, **tensors}, {"x": [1, 2, 2][:axes]}, {"y": axes})
        found = sight(prepare(made, Settings(), silent).view, "v0", axis)
        assert (found is not None) is through
        if found is not None:
            assert found.affine is not None
            assert found == Sight(0.0, affine=found.affine)
            scale = tensors["s"] / np.sqrt(tensors["u"] + 1e-5)
            assert found.affine.scale == pytest.approx(scale, rel=1e-5)
            assert found.affine.shift == pytest.approx(tensors["t"] - tensors["m"] * scale, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("op", "inputs", "scale", "shift"),
    [
        ("Mul", ("v1", "c"), 6, 8), ("Add", ("c", "v1"), 3, 6), ("Sub", ("v1", "c"), 3, 2),
        ("Sub", ("c", "v1"), -3, -2), ("Div", ("v1", "c"), 1.5, 2),
    ],
)  # fmt: skip
def test_constants_of_the_channels_are_seen_through(op: str, inputs: list[str], scale: float, shift: float) -> None:
    tensors = {name: np.full((2, 1, 1), value, np.float32) for name, value in (("three", 3), ("four", 4), ("c", 2))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], "conv"),
        helper.make_node("Mul", ["conv", "three"], ["v0"]),
        helper.make_node("Add", ["v0", "four"], ["v1"]),
        helper.make_node(op, inputs, ["v2"]),
        helper.make_node("Relu", ["v2"], ["y"]),
    ]
    made = model(nodes, {"w": np.ones((2, 2, 1, 1), np.float32), **tensors}, {"x": [1, 2, 3, 3]}, {"y": 4})
    found = sight(prepare(made, Settings(), silent).view, "conv")
    assert found is not None
    assert found.affine is not None
    assert found == Sight(0.0, affine=found.affine)
    assert np.array_equal([found.affine.scale, found.affine.shift], [[scale] * 2, [shift] * 2])


@pytest.mark.parametrize(
    ("op", "inputs", "constant"),
    [
        ("Mul", ["v0", "v0"], np.ones((2, 1, 1))),
        ("Mul", ["v0", "c"], np.ones((2, 1, 3))),
        ("Mul", ["v0", "c"], np.ones((1, 1, 3))),
        ("Mul", ["v0", "c"], np.full((2, 1, 1), np.inf)),
        ("Div", ["v0", "c"], np.zeros((2, 1, 1))),
        ("Div", ["c", "v0"], np.ones((2, 1, 1))),
        ("Pow", ["v0", "c"], np.ones((2, 1, 1))),
    ],
)
def test_nothing_else_is_taken_for_a_scale(op: str, inputs: list[str], constant: NDArray[Any]) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["v0"], "conv"),
        helper.make_node(op, inputs, ["v1"]),
        helper.make_node("Relu", ["v1"], ["y"]),
    ]
    tensors = {"w": np.ones((2, 2, 1, 1), np.float32), "c": constant.astype(np.float32)}
    made = model(nodes, tensors, {"x": [1, 2, 3, 3]}, {"y": 4})
    assert sight(prepare(made, Settings(), silent).view, "v0") is None


def test_a_normalisation_of_every_element_is_none_of_channels() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["v0"], "node"),
        helper.make_node("BatchNormalization", ["v0", *"stmu"], ["y"], "norm", spatial=0),
    ]
    tensors = {"w": np.ones((2, 2, 1), np.float32)} | {name: np.ones((2, 2), np.float32) for name in "stmu"}
    made = model(nodes, tensors, {"x": [1, 2, 2]}, {"y": 3}, opset=7)
    assert sight(prepare(made, Settings(), silent).view, "v0") is None


def test_vectors_of_a_product_are_not_pooled() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["v0"], "node"), helper.make_node("Relu", ["v0"], ["r"], "relu")]
    nodes.append(helper.make_node("MaxPool", ["r"], ["y"], "pool", kernel_shape=[2], strides=[2]))
    made = model(nodes, {"w": np.ones((4, 4), np.float32)}, {"x": [1, 2, 4]}, {"y": 3})
    assert sight(prepare(made, Settings(), silent).view, "v0", -1) == Sight(0.0)


def test_everything_is_seen_where_something_else_takes_the_value() -> None:
    assert seen(RELU, also=True) is None


def test_nothing_is_pooled_twice_and_bounds_do_not_cross() -> None:
    assert seen(RELU, pool(), pool()) == Sight(0.0, math.inf, (2, 2))
    assert seen(("Clip", ["low", "high"], {}), ("Clip", ["high", ""], {})) == Sight(-1.0, 6.0)


def test_an_output_of_the_model_is_seen_whole() -> None:
    made = model(
        [helper.make_node("Conv", ["x", "w"], ["v0"], "conv"), helper.make_node("Relu", ["v0"], ["y"], "relu")],
        {"w": np.ones((2, 2, 1), np.float32)}, {"x": [1, 2, 8]}, {"y": 3, "v0": 3},
    )  # fmt: skip
    onnx.checker.check_model(made)
    job = prepare(made, Settings(), silent)
    assert sight(job.view, "v0") is None


def told(
    *steps: tuple[str, dict[str, Any]],
    classes: int = 3,
    also: str = "",
    domain: str = "",
    size: int = 8,
    opset: int = 18,
) -> str | None:
    """What a convolution's outputs tell by their scores, with nodes behind it."""
    nodes, value = [helper.make_node("Conv", ["x", "w"], ["v0"], "conv")], "v0"
    for i, (op, attributes) in enumerate(steps):
        nodes.append(helper.make_node(op, [value], [f"v{i + 1}"], f"{op}{i}", domain=domain, **attributes))
        value = f"v{i + 1}"
    outputs = {value: 4}
    if also:
        nodes.append(helper.make_node(also, ["v0"], ["other"], "other"))
        outputs |= {"other": 4}
    tensors, shape = {"w": np.ones((classes, 2, 1, 1), np.float32)}, {"x": [1, 2, size, size]}
    job = prepare(model(nodes, tensors, shape, outputs, opset=opset), Settings(), silent)
    return scores(job.view, "v0", classes)


SOFTMAX: tuple[str, dict[str, Any]] = ("Softmax", {"axis": 1})
TURNED: tuple[str, dict[str, Any]] = ("Transpose", {"perm": [0, 2, 3, 1]})
SIGMOID: tuple[str, dict[str, Any]] = ("Sigmoid", {})
CAST: tuple[str, dict[str, Any]] = ("Cast", {"to": onnx.TensorProto.FLOAT})


def test_what_compares_along_the_classes_tells_that_they_are_classes() -> None:
    assert told(SOFTMAX) == told(SOFTMAX, TURNED) == told(TURNED, ("LogSoftmax", {})) == "classes"
    assert told(("ArgMax", {"axis": 1}), CAST) == told(("ArgMax", {"axis": -3}), CAST, also="Identity") == "classes"


def test_scores_of_which_nothing_is_known_are_perhaps_of_classes() -> None:
    assert told() == told(TURNED) == told(("Softmax", {"axis": 2})) == told(("ArgMax", {}), CAST) == "perhaps"


def test_an_old_softmax_compares_over_all_axes_behind_its_own() -> None:
    assert told(("Softmax", {}), size=1, opset=11) == told(SOFTMAX, size=1, opset=11) == "classes"
    assert told(("Softmax", {}), opset=11) == told(SOFTMAX, opset=11) == "perhaps"
    assert told(TURNED, ("Softmax", {"axis": 3}), opset=11) == told(TURNED, ("Softmax", {}), opset=13) == "classes"


def test_a_sigmoid_tells_of_events() -> None:
    assert told(SIGMOID) == told(TURNED, SIGMOID) == told(SIGMOID, classes=1) == "events"


def test_what_other_nodes_take_too_or_make_something_else_of_is_no_score() -> None:
    assert told(("Relu", {})) is told(SOFTMAX, ("Exp", {})) is told(SOFTMAX, also="Neg") is None
    assert told(classes=1) is told(SOFTMAX, classes=1) is None
