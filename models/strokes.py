"""The thesis network: two 3D convolutions and three linear layers that tell a forehand from a backhand.

Input 1x4x28x120x160. Conv3d 4->6, 5x11x11, pad 2,5,5; ReLU; MaxPool 2,4,4; Conv3d 6->16, 5x11x11; ReLU;
MaxPool 2,4,4; Flatten 2800; Gemm 128, ReLU, 84, ReLU, 2. Needs numpy and onnx only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

PATH = Path(__file__).with_name("strokes.onnx")
SHAPES = {
    "conv1": (6, 4, 5, 11, 11),
    "conv2": (16, 6, 5, 11, 11),
    "fc1": (128, 2800),
    "fc2": (84, 128),
    "fc3": (2, 84),
}


def build(weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The network as an ONNX model with a free batch dimension.

    Args:
        weights: `{layer}.weight` and `{layer}.bias` for every layer of `SHAPES`, shaped (out, in, *kernel) and (out,).
    """
    pool = {"kernel_shape": [2, 4, 4], "strides": [2, 4, 4]}
    nodes = [
        _layer("Conv", "conv1", "clip", pads=[2, 5, 5, 2, 5, 5]),
        _node("Relu", "relu1", "conv1"),
        _node("MaxPool", "pool1", "relu1", **pool),
        _layer("Conv", "conv2", "pool1"),
        _node("Relu", "relu2", "conv2"),
        _node("MaxPool", "pool2", "relu2", **pool),
        _node("Flatten", "flatten", "pool2"),
        _layer("Gemm", "fc1", "flatten", transB=1),
        _node("Relu", "relu3", "fc1"),
        _layer("Gemm", "fc2", "relu3", transB=1),
        _node("Relu", "relu4", "fc2"),
        _layer("Gemm", "fc3", "relu4", transB=1),
    ]
    nodes[-1].output[0] = "logits"
    tensors = []
    for layer, shape in SHAPES.items():
        for name, expected in ((f"{layer}.weight", shape), (f"{layer}.bias", shape[:1])):
            array = np.ascontiguousarray(weights[name], np.float32)
            if array.shape != expected:
                raise ValueError(f"{name} has the shape {array.shape}, not {expected}")
            tensors.append(numpy_helper.from_array(array, name))
    graph = helper.make_graph(
        nodes,
        "strokes",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, ["n", 4, 28, 120, 160])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        tensors,
    )
    model = helper.make_model(
        graph, producer_name="onnx-tucker", ir_version=9, opset_imports=[helper.make_opsetid("", 18)]
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _layer(op: str, name: str, source: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, [source, f"{name}.weight", f"{name}.bias"], [name], name, **attributes)


def _node(op: str, name: str, source: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, [source], [name], name, **attributes)
