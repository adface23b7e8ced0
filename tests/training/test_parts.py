"""Which parts of a model are trained at a time."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.training.parts import blocks, single_precision, taken
from tests.helpers import model, two_layers

EYE = np.eye(4, dtype=np.float32)


def test_blocks_lie_between_values() -> None:
    weights = ["conv.weight", "conv.bias", "fc.weight"]
    first, second = blocks(two_layers(), weights, ["c", "y"])
    assert first == (weights[:2], [], ["c"], ())
    assert second == (weights[2:], ["c"], ["y"], ())


def of(made: onnx.ModelProto, weights: list[str], gives: list[str], same: tuple[str, ...] = ()) -> list[str]:
    """What is taken."""
    return taken(made, weights, gives, single_precision(made), same)


def test_what_stays_the_same_is_taken() -> None:
    made = two_layers()
    assert of(made, ["fc.weight"], ["y"]) == ["f"]
    assert of(made, ["conv.bias", "fc.weight"], ["y"]) == ["x"]
    assert of(made, ["fc.weight"], ["y", "c"]) == ["c", "f"]
    assert of(made, ["fc.weight"], ["c"]) == []


def test_shapes_and_constants_and_what_is_the_same_for_all_follow_from_what_is_taken() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Shape", ["h"], ["s"]),
        helper.make_node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["f"], ["l"], keepdims=0),
        helper.make_node("MatMul", ["h", "v"], ["m"], "second"),
        helper.make_node("Reshape", ["m", "s"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["a"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(EYE)),
        helper.make_node("Neg", ["c"], ["k"]),
        helper.make_node("Mul", ["a", "k"], ["d"]),
        helper.make_node("Sqrt", ["z"], ["q"]),
        helper.make_node("Div", ["d", "q"], ["e"]),
        helper.make_node("Mul", ["e", "l"], ["y"]),
    ]
    made = model(nodes, {"w": EYE, "v": EYE}, {"x": [4, 4], "z": [1]}, {"y": 2})
    assert of(made, ["v"], ["y"], ("z",)) == ["h", "x", "z"]


def test_an_output_that_stays_the_same_is_taken_too() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "v"], ["y"], "second"),
    ]
    made = model(nodes, {"w": EYE, "v": EYE}, {"x": [4, 4]}, {"h": 2, "y": 2})
    assert of(made, ["v"], ["h", "y"]) == ["h"]
