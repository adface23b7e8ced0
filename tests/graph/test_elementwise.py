"""Activations, as exporters write them, told as curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import scipy
from onnx import helper

from onnx_tucker.factor.sight import Sight
from onnx_tucker.graph.behind import sight
from onnx_tucker.job import silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from tests.graph.test_segment import NODES
from tests.helpers import Array, model


def swish(y: Array) -> Array:
    return np.asarray(y * scipy.special.expit(y))


def gelu(y: Array) -> Array:
    return np.asarray(y * scipy.special.ndtr(y))


def softplus(y: Array) -> Array:
    return np.logaddexp(0, y)


NUMBERS: dict[str, Any] = {
    "hundred": 100.0,
    "thousand": 1000.0,
    "root": 2**0.5,
    "one": 1.0,
    "half": 0.5,
    "three": 3.0,
    "six": 6.0,
    "zero": 0.0,
    "slope": [[[0.25]]],
}
ACTIVATIONS: dict[str, tuple[list[str], Callable[[Array], Array]]] = {
    "tanh": (["Tanh v0 = y"], np.tanh),
    "sigmoid": (["Sigmoid v0 = y"], scipy.special.expit),
    "leaky": (["LeakyRelu v0 = y"], lambda y: np.where(y > 0, y, 0.01 * y)),
    "slope": (["PRelu v0 slope = y"], lambda y: np.where(y > 0, y, 0.25 * y)),
    "swish": (["Sigmoid v0 = s", "Mul v0 s = y"], swish),
    "gelu": (["Div v0 root = d", "Erf d = e", "Add e one = a", "Mul v0 a = m", "Mul m half = y"], gelu),
    "hard swish": (
        ["Add v0 three = a", "Clip a zero six = c", "Mul c v0 = m", "Div m six = y"],
        lambda y: y * np.clip(y + 3, 0, 6) / 6,
    ),
    "scaled": (["Mul half v0 = m", "Sub m one = b", "Sigmoid b = s", "Mul s b = y"], lambda y: swish(y / 2 - 1)),
    "spelt out": (["Neg v0 = n", "Exp n = e", "Add e one = a", "Reciprocal a = y"], scipy.special.expit),
    "softplus": (["Exp v0 = e", "Add one e = a", "Log a = y"], softplus),
    "twice": (["Sigmoid v0 = s", "Mul v0 s = m", "Relu m = y"], lambda y: np.maximum(swish(y), 0)),
}


def activated(
    steps: Sequence[str],
    *further: onnx.NodeProto,
    output: str = "y",
    also: str = "",
    dtype: type[np.floating[Any]] = np.float32,
    given: str = "",
) -> Sight | None:
    """What is seen of a convolution's output by nodes that are written as "operator inputs = output"."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["v0"], "conv")]
    for step in steps:
        op, *inputs, _, made = step.split()
        nodes.append(helper.make_node(op, inputs, [made], made))
    tensors = {"w": np.ones((2, 2, 1, 1), dtype)} | {n: np.array(v, dtype) for n, v in NUMBERS.items()}
    made = model([*nodes, *further], tensors, {"x": [1, 2, 8, 8]}, {output: 4} | ({also: 4} if also else {}))
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if given:  # by callers, who may leave it at what it is
        made.graph.input.append(helper.make_tensor_value_info(given, onnx.TensorProto.FLOAT, []))
    return sight(prepare(made, Settings(), silent).view, "v0")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_a_curve_however_it_is_written(name: str) -> None:
    steps, function = ACTIVATIONS[name]
    found, values = activated(steps), np.linspace(-40, 40, 4001)
    assert found is not None
    assert found.curve is not None
    assert found == Sight(curve=found.curve)
    assert found.of(values[:, None, None]).ravel() == pytest.approx(function(values), abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_have_the_same_activations(dtype: type[np.floating[Any]]) -> None:
    found, values = activated(ACTIVATIONS["gelu"][0], dtype=dtype), np.linspace(-9, 9, 101)
    assert found is not None
    assert found.of(values[:, None, None]).ravel() == pytest.approx(gelu(values), abs=1e-2)


@pytest.mark.parametrize(
    "steps",
    [
        ["Div v0 hundred = d", "Tanh d = y"],
        ["Div v0 hundred = d", "Clip d zero one = y"],
        ["Mul v0 thousand = d", "Sigmoid d = y"],
        ["Mul v0 v0 = y"],
    ],
    ids=str,
)
def test_what_bends_elsewhere_is_no_curve(steps: list[str]) -> None:
    assert activated(steps) is None


def test_a_number_that_callers_may_replace_is_none() -> None:
    steps = ["Add v0 three = a", "Relu a = y"]
    assert activated(steps) is not None
    assert activated(steps, given="three") is None


def test_a_curve_that_rises_is_pooled_and_no_other() -> None:
    pooled = helper.make_node("MaxPool", ["y"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2])
    rising, other = (activated(ACTIVATIONS[name][0], pooled, output="p") for name in ("tanh", "swish"))
    assert rising is not None
    assert other is not None
    assert (rising.window, other.window) == ((2, 2), ())


def test_an_activation_of_which_a_part_goes_elsewhere_is_seen_whole() -> None:
    assert activated(ACTIVATIONS["swish"][0], also="s") is None
    assert activated(["Sigmoid v0 = s", "Neg s = n", "Mul v0 s = m", "MatMul m n = y"]) is None


def test_sums_are_those_that_nothing_else_needs() -> None:
    nodes = [*NODES, helper.make_node("Add", ["z", "z"], ["d"])]
    made = model(nodes, {}, {"x": ["n", 3]}, {"d": 2})
    assert prepare(made, Settings(), silent).view.sums() == {
        "b": ("y", "c"),
        "c": ("y", "b"),
        "y": ("z", "a"),
    }
    made = model(nodes, {}, {"x": ["n", 3]}, {"d": 2, "y": 2, "b": 2})
    assert prepare(made, Settings(), silent).view.sums() == {"c": ("y", "b")}
