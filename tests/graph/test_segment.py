"""Parts of a graph as models of their own."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnx_tucker.graph.segment import between, model_of, uses
from tests.helpers import model, run

NODES = [
    helper.make_node("Relu", ["x"], ["a"]),
    helper.make_node("Neg", ["a"], ["b"]),
    helper.make_node("Abs", ["x"], ["c"]),
    helper.make_node("Add", ["b", "c"], ["y"]),
    helper.make_node("Add", ["y", "a"], ["z"]),
]


def test_only_what_is_needed_is_taken() -> None:
    assert [n.op_type for n in between(NODES, ["x"], ["b"])] == ["Relu", "Neg"]
    assert [n.op_type for n in between(NODES, ["a", "x"], ["y"])] == ["Neg", "Abs", "Add"]
    assert between(NODES, ["y"], ["y"]) == []


def test_what_bodies_use_counts() -> None:
    body = helper.make_graph(
        [helper.make_node("Neg", ["q"], ["r"])], "b", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    node = helper.make_node("If", ["p"], ["y"], then_branch=body, else_branch=body)
    assert {"p", "q"} <= set(uses(node))


def test_a_segment_computes_what_the_model_does() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    made = model(NODES, {}, {"x": ["n", 3]}, {"z": 2})
    part = model_of(made, between(NODES, ["x", "a"], ["y"]), {}, {"x": x, "a": np.maximum(x, 0)}, ["y"])
    assert np.allclose(run(onnx.load_from_string(part), x=x, a=np.maximum(x, 0))[0], -np.maximum(x, 0) + np.abs(x))
