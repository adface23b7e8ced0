"""What outputs are made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker.graph.ends import chosen, class_axes, joined, maker, scores
from onnx_tucker.graph.view import View
from tests.helpers import look, model

WEIGHTS = {"w": np.ones((6, 4), np.float32), "k": np.ones((4, 6, 1), np.float32), "b": np.ones(4, np.float32)}
WEIGHTS["most"] = np.array(1, np.float32)


def view_of(nodes: Sequence[onnx.NodeProto], outputs: dict[str, int], opset: int = 21) -> View:
    made = model(nodes, WEIGHTS, {"x": ["n", 6, 6]}, outputs, opset=opset)
    return View.of(made, look(made)[0])


PRODUCT = helper.make_node("MatMul", ["x", "w"], ["m"])
CONV = helper.make_node("Conv", ["x", "k"], ["c"])


@pytest.mark.parametrize(
    ("nodes", "axis"),
    [
        ([CONV], 1),
        ([PRODUCT], -1),
        ([PRODUCT, helper.make_node("Add", ["b", "m"], ["y"])], -1),
        ([PRODUCT, helper.make_node("Add", ["m", "x"], ["y"])], None),
        ([PRODUCT, CONV, helper.make_node("Add", ["m", "c"], ["y"])], None),
        ([PRODUCT, helper.make_node("Relu", ["m"], ["r"]), helper.make_node("Add", ["m", "r"], ["y"])], -1),
        ([PRODUCT, helper.make_node("Sigmoid", ["m"], ["y"])], -1),
        ([CONV, helper.make_node("Mul", ["c", "most"], ["s"]), helper.make_node("Tanh", ["s"], ["y"])], 1),
        (
            [CONV, helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 1]), helper.make_node("Relu", ["t"], ["y"])],
            2,
        ),
        ([CONV, helper.make_node("Flatten", ["c"], ["y"])], None),
        ([CONV, helper.make_node("Softmax", ["c"], ["y"], axis=2)], 2),
        ([CONV, helper.make_node("Softmax", ["c"], ["s"]), helper.make_node("Identity", ["s"], ["y"])], -1),
        (
            [
                CONV,
                helper.make_node("Softmax", ["c"], ["s"], axis=1),
                helper.make_node("Transpose", ["s"], ["y"], perm=[0, 2, 1]),
            ],
            2,
        ),
    ],
)
def test_where_classes_lie(nodes: list[onnx.NodeProto], axis: int | None) -> None:
    output = nodes[-1].output[0]
    assert class_axes(view_of(nodes, {output: 3}))[output] == axis


def test_what_an_output_puts_together_is_found() -> None:
    nodes = [
        PRODUCT,
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Sigmoid", ["m"], ["s"]),
        helper.make_node("Concat", ["r", "s"], ["one"], axis=2),
        helper.make_node("Transpose", ["one"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Tanh", ["turned"], ["t"]),
        helper.make_node("Concat", ["turned", "t"], ["two"], axis=1),
        helper.make_node("Flatten", ["two"], ["y"]),
    ]
    view = view_of(nodes, {"y": 2})
    assert joined(view, "y") == ["r", "s", "t"]
    assert joined(view, "t") == ["t"]


def test_what_is_put_together_many_times_is_looked_at_once() -> None:
    nodes = [PRODUCT] + [
        helper.make_node("Concat", [f"c{i}" if i else "m"] * 2, [f"c{i + 1}"], axis=0) for i in range(60)
    ]
    assert joined(view_of(nodes, {"c60": 3}), "c60") == ["m"]


def test_constants_and_inputs_are_no_parts() -> None:
    nodes = [CONV, helper.make_node("Concat", ["x", "c", "k"], ["y"], axis=1)]
    assert joined(view_of(nodes, {"y": 3}), "y") == ["c"]


def test_operators_of_others_put_nothing_together() -> None:
    join = helper.make_node("Concat", ["c", "x"], ["y"], domain="of.others")
    assert joined(view_of([CONV, join], {"y": 3}), "y") == ["y"]


@pytest.mark.parametrize(
    ("nodes", "before"),
    [
        ([PRODUCT, helper.make_node("Softmax", ["m"], ["y"])], "m"),
        (
            [
                PRODUCT,
                helper.make_node("Softmax", ["m"], ["s"]),
                helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1]),
                helper.make_node("Identity", ["t"], ["y"]),
            ],
            "m",
        ),
        ([PRODUCT, helper.make_node("Sigmoid", ["m"], ["y"])], None),
        ([PRODUCT, helper.make_node("Softmax", ["m"], ["s"]), helper.make_node("Neg", ["s"], ["y"])], None),
        ([PRODUCT, helper.make_node("Softmax", ["m"], ["y"], domain="of.others")], None),
        ([helper.make_node("Softmax", ["x"], ["y"])], None),
        ([helper.make_node("Identity", ["b"], ["same"]), helper.make_node("Softmax", ["same"], ["y"])], None),
    ],
)
def test_what_probabilities_are_made_of_is_found(nodes: list[onnx.NodeProto], before: str | None) -> None:
    assert scores(view_of(nodes, {"y": 3}), "y") == before


def test_what_outputs_are_chosen_from_is_found() -> None:
    nodes = [
        PRODUCT,
        helper.make_node("Dropout", ["m"], ["d", ""]),
        helper.make_node("Sigmoid", ["d"], ["s"]),
        helper.make_node("ArgMax", ["s"], ["i"], axis=2),
        helper.make_node("GatherElements", ["m", "i"], ["g"], axis=2),
        helper.make_node("Tanh", ["g"], ["y"]),
        helper.make_node("Clip", ["x", "", "most"], ["clipped"]),
        helper.make_node("ArgMax", ["clipped"], ["of_input"]),
    ]
    view = view_of(nodes, {"y": 3, "i": 3, "s": 3, "of_input": 3})
    assert chosen(view, ["m"]) == {"y": ["m", "s"], "i": ["s"]}


def test_truths_are_of_the_values_that_they_compare() -> None:
    nodes = [
        PRODUCT,
        helper.make_node("Sigmoid", ["m"], ["s"]),
        helper.make_node("Greater", ["s", "most"], ["g"]),
        helper.make_node("Not", ["g"], ["n"]),
        helper.make_node("Or", ["g", "n"], ["o"]),
        helper.make_node("NonZero", ["o"], ["y"]),
    ]
    assert chosen(view_of(nodes, {"y": 2}), ["m"]) == {"y": ["s"]}


def test_what_follows_from_sizes_alone_is_no_choice() -> None:
    nodes = [
        PRODUCT,
        helper.make_node("Shape", ["m"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["ones"]),
        helper.make_node("NonZero", ["ones"], ["places"]),
        helper.make_node("Cast", ["places"], ["grid"], to=1),
        helper.make_node("ReduceSum", ["grid"], ["sum"]),
        helper.make_node("Add", ["m", "sum"], ["y"]),
    ]
    assert chosen(view_of(nodes, {"y": 3}), ["m"]) == {}


def test_layers_behind_a_choice_are_not_judged_by_what_is_before_it() -> None:
    nodes = [
        PRODUCT,
        helper.make_node("TopK", ["m", "two"], ["values", "indices"]),
        helper.make_node("MatMul", ["values", "v"], ["y"]),
    ]
    tensors = {**WEIGHTS, "two": np.array([2]), "v": np.ones((2, 4), np.float32)}
    made = model(nodes, tensors, {"x": ["n", 6, 6]}, {"y": 3, "indices": 3})
    view = View.of(made, look(made)[0])
    assert chosen(view, ["m", "y"]) == {}
    assert chosen(view, ["m"]) == {"y": ["m"], "indices": ["m"]}


@pytest.mark.parametrize(
    ("node", "scores"),
    [
        (helper.make_node("Softmax", ["m"], ["y"]), "m"),
        (helper.make_node("LogSoftmax", ["m"], ["y"]), "m"),
        (helper.make_node("Sigmoid", ["m"], ["y"]), "m"),
        (helper.make_node("MatMul", ["m", "v"], ["y"]), ""),
        (helper.make_node("Add", ["b", "m"], ["y"]), ""),
        (helper.make_node("Relu", ["m"], ["y"]), ""),
    ],
)
def test_only_probabilities_are_made_of_scores(node: onnx.NodeProto, scores: str) -> None:
    """Labels are of an output itself, and not of what its last layer takes."""
    found = maker(view_of([PRODUCT, node], {"y": 3}).model, "y")
    assert (found.operator, found.scores) == (node.op_type, scores)
