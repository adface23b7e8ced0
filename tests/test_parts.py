"""Which parts of a model are trained at a time."""

from __future__ import annotations

import numpy as np
from onnx import helper, numpy_helper

from onnx_tucker.parts import behind, blocks
from tests.helpers import model, two_layers

EYE = np.eye(4, dtype=np.float32)


def test_blocks_lie_between_values() -> None:
    weights = ["conv.weight", "conv.bias", "fc.weight"]
    first, second = blocks(two_layers(), weights, ["c", "y"])
    assert first == (weights[:2], [], ["c"], ())
    assert second == (weights[2:], ["c"], ["y"], ())


def test_what_stays_the_same_is_taken() -> None:
    made = two_layers()
    assert behind(made, ["fc.weight"], ["y"]) == ["f"]
    assert behind(made, ["conv.bias", "fc.weight"], ["y"]) == ["x"]
    assert behind(made, ["fc.weight"], ["c"]) == []


def test_shapes_and_constants_follow_from_what_is_taken() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Shape", ["h"], ["s"]),
        helper.make_node("MatMul", ["h", "v"], ["m"], "second"),
        helper.make_node("Reshape", ["m", "s"], ["r"]),
        helper.make_node("Add", ["r", "x"], ["a"]),
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(EYE)),
        helper.make_node("Neg", ["c"], ["k"]),
        helper.make_node("Mul", ["a", "k"], ["y"]),
    ]
    made = model(nodes, {"w": EYE, "v": EYE}, {"x": [4, 4]}, {"y": 2})
    assert behind(made, ["v"], ["y"]) == ["h", "x"]
