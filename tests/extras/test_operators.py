"""Linear operators in torch against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker.errors import ModelError
from tests.helpers import Array, model, relative, run

torch = pytest.importorskip("torch")
network = pytest.importorskip("onnx_tucker.extras.network")
operators = pytest.importorskip("onnx_tucker.extras.operators")

RNG = np.random.default_rng(0)


def same(op: str, shapes: list[list[int]], **attributes: Any) -> None:
    """What torch computes is what onnxruntime does, and all operands get a gradient."""
    x, *weights = (RNG.standard_normal(shape).astype(np.float32) for shape in shapes)
    tensors = {f"w{i}": weight for i, weight in enumerate(weights)}
    node = helper.make_node(op, ["x", *tensors], ["y"], "node", **attributes)
    made = model([node], tensors, {"x": x.shape}, {"y": x.ndim})
    net = network.Network(made, list(tensors))
    [y] = net.run({"x": x}, ["y"])
    assert relative(run(made, x=x)[0], y.detach().numpy()) < 1e-5
    y.square().sum().backward()
    assert all(weight.grad is not None for weight in net.weights.values())


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("pads", [(0, 0), (1, 1), (2, 0)])
def test_convolutions(axes: int, stride: int, dilation: int, group: int, pads: tuple[int, int]) -> None:
    shared = {"strides": [stride] * axes, "dilations": [dilation] * axes, "group": group}
    padded = {"pads": [pads[0]] * axes + [pads[1]] * axes}
    same("Conv", [[2, 4, *[8] * axes], [6, 4 // group, *[3] * axes], [6]], **shared, **padded)
    same("ConvTranspose", [[2, 4, *[5] * axes], [4, 6 // group, *[3] * axes], [6]], **shared, **padded)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("size", [7, 8])
def test_pads_that_follow_from_the_size(auto_pad: str, size: int) -> None:
    same("Conv", [[1, 3, size, size], [4, 3, 4, 3]], auto_pad=auto_pad, strides=[2, 1])


@pytest.mark.parametrize("bounds", [(-0.5, 0.5), (-0.5, None), (None, 0.5), (None, None)])
@pytest.mark.parametrize("opset", [7, 18])
def test_values_may_have_a_bound_on_either_side(bounds: tuple[float | None, float | None], opset: int) -> None:
    named = {name: value for name, value in zip(("min", "max"), bounds, strict=True) if value is not None}
    tensors, inputs, attributes = dict[str, Array](), ["x"], dict[str, float]()
    if opset < 11:
        attributes = named
    else:
        tensors = {name: np.array(value, np.float32) for name, value in named.items()}
        inputs += [name if name in named else "" for name in ("min", "max")]
    node = helper.make_node("Clip", inputs, ["y"], "node", **attributes)
    made = model([node], tensors, {"x": [4]}, {"y": 1}, opset=opset)
    x = RNG.standard_normal(4).astype(np.float32)
    [y] = network.Network(made, []).run({"x": x}, ["y"])
    assert np.array_equal(run(made, x=x)[0], y.numpy())


def test_transposed_convolutions_may_make_more() -> None:
    for pad in (0, 1):  # where there is none, the bias alone reaches the border
        shapes = [[1, 3, 5, 5], [3, 4, 3, 3], [4]]
        same("ConvTranspose", shapes, strides=[2, 2], output_padding=[1, 1], pads=[pad] * 4)


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"transA": 1}, {"alpha": 0.5, "beta": 2.0}])
def test_products(attributes: dict[str, Any]) -> None:
    left = [4, 3] if attributes.get("transA") else [3, 4]
    right = [5, 4] if attributes.get("transB") else [4, 5]
    same("Gemm", [left, right, [5]], **attributes)
    same("MatMul", [[2, 3, 4], [4, 5]])


def agrees(node: onnx.NodeProto, tensors: dict[str, Array], x: Array, outputs: dict[str, int]) -> None:
    """What torch computes is what onnxruntime does, and the input gets a gradient from it."""
    made = model([node], tensors, {"x": x.shape}, outputs)
    net = network.Network(made, [])
    given = torch.from_numpy(x).requires_grad_()
    found = net._steps[id(net._nodes[0])].run(*(given if n == "x" else net._constants.get(n) for n in node.input))
    found = found if isinstance(found, tuple) else (found,)
    for exact, y in zip(run(made, x=x), found, strict=True):
        assert relative(exact, y.detach().numpy()) < 1e-5
    found[0].square().sum().backward()
    assert given.grad is not None


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_the_largest_of_all_positions(axes: int) -> None:
    x = RNG.standard_normal((2, 3, *[4] * axes)).astype(np.float32)
    agrees(helper.make_node("GlobalMaxPool", ["x"], ["y"]), {}, x, {"y": axes + 2})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(1, 0, 2, 0, 1, 3), (0, 0, -1, 2, 0, 1), (0, 0, 0, 0, 0, 0)])
def test_pads_of_any_axes(mode: str, pads: tuple[int, ...]) -> None:
    x = RNG.standard_normal((3, 4, 5)).astype(np.float32)
    tensors = {"pads": np.array(pads, np.int64)} | ({"v": np.array(2, np.float32)} if mode == "constant" else {})
    agrees(helper.make_node("Pad", ["x", *tensors], ["y"], mode=mode), tensors, x, {"y": 3})


def test_pads_of_some_axes() -> None:
    x = RNG.standard_normal((3, 4, 5)).astype(np.float32)
    tensors = {"pads": np.array([2, 1], np.int64), "axes": np.array([-1], np.int64)}
    node = helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode="reflect")
    agrees(node, tensors, x, {"y": 3})


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("given", [True, False])
def test_recurrent_layers(kind: str, direction: str, given: bool) -> None:
    gates, ways = {"LSTM": 4, "GRU": 3}[kind], 2 if direction == "bidirectional" else 1
    shapes = {"w": (ways, 5 * gates, 4), "r": (ways, 5 * gates, 5)}
    if given:
        shapes |= {"b": (ways, 2 * 5 * gates), "h": (ways, 2, 5)} | ({"c": (ways, 2, 5)} if kind == "LSTM" else {})
    tensors = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    inputs = ["x", "w", "r", *(["b", "", *list(shapes)[3:]] if given else [])]
    ends = {"h_n": 3} | ({"c_n": 3} if kind == "LSTM" else {})
    extra = {"linear_before_reset": 1} if kind == "GRU" else {}
    node = helper.make_node(kind, inputs, ["y", *ends], direction=direction, hidden_size=5, **extra)
    agrees(node, tensors, RNG.standard_normal((7, 2, 4)).astype(np.float32), {"y": 4, **ends})


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("GRU", {}), ("LSTM", {"clip": 1.0}), ("LSTM", {"activations": ["Relu", "Tanh", "Tanh"]})],
)
def test_recurrent_layers_that_torch_has_not(kind: str, attributes: dict[str, Any]) -> None:
    tensors = {"w": np.zeros((1, 20, 4), np.float32), "r": np.zeros((1, 20, 5), np.float32)}
    node = helper.make_node(kind, ["x", *tensors], ["y"], hidden_size=5, **attributes)
    with pytest.raises(ModelError, match=f"torch does not know the {kind}"):
        network.Network(model([node], tensors, {"x": (7, 2, 4)}, {"y": 4}), [])


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"pads": (1, 0)}, {"ceil_mode": 1}, {"dilations": 2}],
)
def test_windows(axes: int, attributes: dict[str, Any]) -> None:
    x = RNG.standard_normal((2, 3, *[7] * axes)).astype(np.float32)
    known: dict[str, Any] = {"kernel_shape": [3] * axes, "strides": [2] * axes, **attributes}
    if "pads" in known:
        known["pads"] = [known["pads"][0]] * axes + [known["pads"][1]] * axes
    if "dilations" in known:
        known["dilations"] = [2] * axes
    agrees(helper.make_node("MaxPool", ["x"], ["y"], **known), {}, x, {"y": axes + 2})
    if "dilations" not in known:
        for counted in (0, 1):
            node = helper.make_node("AveragePool", ["x"], ["y"], **known, count_include_pad=counted)
            agrees(node, {}, x, {"y": axes + 2})


@pytest.mark.parametrize("size", [7, 8, 9, 10])
@pytest.mark.parametrize(("stride", "pad"), [(3, 1), (2, 1), (2, 0), (3, 0)])
def test_windows_that_begin_in_the_padding_are_none(size: int, stride: int, pad: int) -> None:
    x = RNG.standard_normal((1, 2, size, size)).astype(np.float32)
    shared = {"kernel_shape": [3, 3], "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": 1}
    for op in ("MaxPool", "AveragePool"):
        agrees(helper.make_node(op, ["x"], ["y"], **shared), {}, x, {"y": 4})


@pytest.mark.parametrize("opset", [9, 17])
def test_slices(opset: int) -> None:
    x = RNG.standard_normal((5, 6, 7)).astype(np.float32)
    bounds: dict[str, list[int]] = {"starts": [1, -3], "ends": [9, -1], "axes": [0, 2]}
    if opset == 9:
        made = model([helper.make_node("Slice", ["x"], ["y"], **bounds)], {}, {"x": x.shape}, {"y": 3}, opset=9)
        assert np.array_equal(network.Network(made, []).run({"x": x}, ["y"])[0].numpy(), run(made, x=x)[0])
        return
    for steps in ([], [2, 1], [-1, -2]):
        ends = [-(2**63)] * 2 if steps and steps[0] < 0 else bounds["ends"]
        given = bounds | {"ends": ends} | ({"steps": steps} if steps else {})
        tensors = {name: np.array(values, np.int64) for name, values in given.items()}
        agrees(helper.make_node("Slice", ["x", *tensors], ["y"]), tensors, x, {"y": 3})


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    x = RNG.standard_normal((3, 5)).astype(np.float32)
    made = model(
        [helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)], {}, {"x": x.shape}, {"y": 2}, opset=20
    )
    [y] = network.Network(made, []).run({"x": x}, ["y"])
    assert relative(run(made, x=x)[0], y.numpy()) < 1e-5


@pytest.mark.parametrize(("sizes", "attributes"), [([0, -1], {}), ([6, 2, 5], {"allowzero": 1}), ([-1, 0, 5], {})])
def test_reshape(sizes: list[int], attributes: dict[str, int]) -> None:
    x = RNG.standard_normal((3, 4, 5)).astype(np.float32)
    node = helper.make_node("Reshape", ["x", "s"], ["y"], **attributes)
    made = model([node], {"s": np.array(sizes, np.int64)}, {"x": x.shape}, {"y": len(sizes)})
    [y] = network.Network(made, []).run({"x": x}, ["y"])
    assert np.array_equal(run(made, x=x)[0], y.numpy())


@pytest.mark.parametrize("op", [*operators.REDUCTIONS])
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("axes", [[1], [0, -1], [], None])
def test_reductions(op: str, opset: int, axes: list[int] | None) -> None:
    """Axes are an attribute, or since opset 18 (13 for sums) an input, here of a node; none are all of them."""
    x = np.abs(RNG.standard_normal((3, 4, 5))).astype(np.float32) + np.float32(0.5)
    as_input = axes is not None and opset >= (13 if op == "ReduceSum" else 18)
    constant = [helper.make_node("Constant", [], ["a"], value_ints=axes or [])] if as_input and axes else []
    tensors = {"a": np.zeros(0, np.int64)} if as_input and not axes else {}
    attributes = {} if as_input or not axes else {"axes": axes}
    for keepdims in (0, 1):
        node = helper.make_node(op, ["x", "a"] if as_input else ["x"], ["y"], keepdims=keepdims, **attributes)
        made = model([*constant, node], tensors, {"x": x.shape}, {"y": 3}, opset=opset)
        made.graph.output[0].type.tensor_type.ClearField("shape")
        [y] = network.Network(made, []).run({"x": x}, ["y"])
        [expected] = run(made, x=x)
        assert y.numpy().shape == expected.shape
        assert relative(expected, y.numpy()) < 1e-5


def test_what_is_reduced_along_no_axis_stays() -> None:
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    for op in ("ReduceMean", "ReduceSumSquare", "ReduceL2"):
        node = helper.make_node(op, ["x"], ["y"], noop_with_empty_axes=1)
        made = model([node], {}, {"x": x.shape}, {"y": 2}, opset=18)
        assert relative(run(made, x=x)[0], network.Network(made, []).run({"x": x}, ["y"])[0].numpy()) < 1e-6


def test_a_scalar_may_come_in() -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=0)
    made = model([node], {}, {"x": [3, 4], "i": []}, {"y": 1})
    made.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    [y] = network.Network(made, []).run({"x": x, "i": np.int64(2)}, ["y"])
    assert np.array_equal(y.numpy(), x[2])


def test_what_a_node_has_a_copy_of_is_not_trained() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "gemm"),
        helper.make_node("LayerNormalization", ["h", "s", "b"], ["y"], "norm"),
    ]
    tensors = {"w": RNG.standard_normal((4, 4)), "b": np.zeros(4), "s": np.ones(4)}
    made = model(nodes, {n: a.astype(np.float32) for n, a in tensors.items()}, {"x": [3, 4]}, {"y": 2})
    assert list(network.Network(made, ["w", "b"]).weights) == ["w"]
