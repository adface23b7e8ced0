"""Linear operators in torch against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.helpers import model, relative, run

torch = pytest.importorskip("torch")
network = pytest.importorskip("onnx_tucker.extras.network")

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
