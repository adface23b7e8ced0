"""Branches that no sample takes show no error, and stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker import compress
from onnx_tucker.reached import UNREACHED
from tests.helpers import Array, low_rank, model

RNG = np.random.default_rng(0)


def graph(nodes: list[onnx.NodeProto], output: str, **weights: Array) -> onnx.GraphProto:
    value = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, output, [], [value], [numpy_helper.from_array(w, n) for n, w in weights.items()])


def branching(*, shared: bool = False) -> onnx.ModelProto:
    """A product, and two more where its sum is above 0: one of them where it is above 1000."""
    weight = low_rank(RNG, 4, 24, 24)
    inner = graph([helper.make_node("MatMul", ["first", "v"], ["deep"], "deep")], "deep", v=weight)
    other = graph([helper.make_node("Identity", ["first"], ["same"])], "same")
    yes = graph(
        [
            helper.make_node("MatMul", ["h", "w" if shared else "own"], ["first"], "then"),
            helper.make_node("If", ["large"], ["then_out"], "inner", then_branch=inner, else_branch=other),
        ],
        "then_out",
        **({} if shared else {"own": weight}),
    )
    no = graph([helper.make_node("Identity", ["h"], ["else_out"])], "else_out")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "main"),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("Greater", ["sum", "thousand"], ["large"]),
        helper.make_node("If", ["positive"], ["y"], "outer", then_branch=yes, else_branch=no),
    ]
    tensors = {"w": weight, "zero": np.float32(0), "thousand": np.float32(1000)}
    return model(nodes, tensors, {"x": [4, 24]}, {"y": 2})


def samples(*signs: int) -> list[dict[str, Array]]:
    return [{"x": sign * np.abs(RNG.standard_normal((4, 24))).astype(np.float32)} for sign in signs]


@pytest.mark.parametrize(
    ("signs", "kept"),
    [([-1] * 8, {"then", "deep"}), ([-1] * 7 + [1], {"deep"}), ([1, -1] * 3 + [100], set())],
)
def test_what_the_data_never_gets_to_stays(signs: list[int], kept: set[str]) -> None:
    result = compress(branching(), ranks=4, data=samples(*signs), benchmark=False)
    nodes = {n.name.rpartition("/")[2]: n for n in result.report.nodes}
    assert set(nodes) == {"main", "then", "deep"}
    for name, node in nodes.items():
        assert (node.status, node.reason == UNREACHED) == (("skipped", True) if name in kept else ("factorized", False))


def test_and_what_shares_its_weight() -> None:
    result = compress(branching(shared=True), ranks=4, data=samples(*[-1] * 8), benchmark=False)
    assert {n.reason for n in result.report.nodes} == {UNREACHED}


def test_without_data_nothing_is_known_of_any() -> None:
    result = compress(branching(), ranks=4, benchmark=False)
    assert {n.status for n in result.report.nodes} == {"factorized"}
