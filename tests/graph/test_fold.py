from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.graph.fold import fold
from tests.helpers import look, model


def test_shape_arithmetic_becomes_constants_and_the_rest_stays() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Mul", ["s", "two"], ["t"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Shape", ["y"], ["u"]),
    ]
    made = model(nodes, {"two": np.array([2, 2])}, {"x": [3, 5]}, {"y": 2})
    assert fold(made, {"x": (3, 5)})
    values = {t.name: numpy_helper.to_array(t).tolist() for t in made.graph.initializer}
    assert values == {"two": [2, 2], "s": [3, 5], "t": [6, 10]}
    assert [n.output[0] for n in made.graph.node] == ["y", "u"]
    assert not fold(made, {"x": (3, 5)})


def test_sizes_that_are_free_leave_others_known() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Slice", ["s", "last", "end"], ["width"]),
        helper.make_node("Mul", ["width", "two"], ["double"]),
        helper.make_node("Gather", ["s", "zero"], ["rows"]),
        helper.make_node("Concat", ["rows", "width"], ["both"], axis=0),
        helper.make_node("Gather", ["both", "two"], ["again"]),
        helper.make_node("Min", ["rows", "two"], ["least"]),
        helper.make_node("Shape", ["x"], ["middle"], start=1, end=2),
    ]
    numbers = {name: np.array([value]) for name, value in (("last", -1), ("end", 9), ("zero", 0))}
    made = model(nodes, {**numbers, "two": np.array([1])}, {"x": ["n", 9, 48]}, {"least": 1}, opset=18)
    assert fold(made, {"x": ("n", 9, 48)})
    values = {t.name: numpy_helper.to_array(t).tolist() for t in made.graph.initializer}
    assert {name: values[name] for name in ("width", "double", "again", "middle")} == {
        "width": [48],
        "double": [48],
        "again": [48],
        "middle": [9],
    }
    assert [node.output[0] for node in made.graph.node] == ["s", "rows", "both", "least"]
    assert not fold(made, {"x": ("n", 9, 48)})


@pytest.mark.parametrize("to", [TensorProto.INT32, TensorProto.FLOAT16, TensorProto.BOOL])
def test_no_type_makes_a_free_size_known(to: int) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], end=1),
        helper.make_node("Cast", ["s"], ["c"], to=to),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.INT64),
    ]
    assert not fold(model(nodes, {}, {"x": ["n", 48]}, {"y": 1}, opset=18), {"x": ("n", 48)})


def test_a_shape_may_be_a_scalar() -> None:
    made = model(
        [helper.make_node("Expand", ["a", "n"], ["y"])], {"a": np.ones(1, np.float32), "n": np.array(3)}, {}, {}
    )
    fold(made, {})  # whether it can be evaluated or not
    assert {tensor.name for tensor in made.graph.initializer} >= {"a", "n"}


def test_large_constants_are_not_made() -> None:
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    nodes = [helper.make_node("ConstantOfShape", ["size"], ["y"], value=value)]
    made = model(nodes, {"size": np.array([10**6, 10**6])}, {"x": [1]}, {"y": 2})
    assert not fold(made, {})


def test_nodes_that_cannot_be_evaluated_stay() -> None:
    nodes = [
        helper.make_node("Reshape", ["a", "bad"], ["y"]),
        helper.make_node("Add", ["a", "z"], ["w"], domain="mine"),
    ]
    made = model(nodes, {"a": np.ones(4, np.float32), "bad": np.array([3, 3]), "z": np.ones(4)}, {"x": [1]}, {"y": 2})
    assert not fold(made, {})
    assert len(made.graph.node) == 2


@pytest.mark.parametrize(("imported", "domain"), [("ai.onnx", ""), ("", "ai.onnx"), ("ai.onnx", "ai.onnx")])
def test_the_standard_domain_may_go_by_its_other_name(imported: str, domain: str) -> None:
    """Shape arithmetic and weights behind a Transpose are what they are without it."""
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"], "turn", perm=[1, 0]),
        helper.make_node("Shape", ["x"], ["s"], "shape"),
        helper.make_node("Reshape", ["x", "s"], ["r"], "reshape"),
        helper.make_node("MatMul", ["r", "t"], ["y"], "product"),
    ]
    made = model(
        nodes, {"w": np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)}, {"x": [3, 5]}, {"y": 2}
    )
    made.opset_import[0].domain = imported
    for node in made.graph.node:
        node.domain = domain
    _, [found] = look(made)
    assert found.is_site
    assert found.reading.layer is not None
    assert {node.domain for node in made.graph.node} == {domain}
