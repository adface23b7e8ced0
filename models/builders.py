"""Larger 3D networks with seeded random weights, for timing: C3D, R3D-18, X3D-S and a 3D U-Net.

The layer shapes follow the papers; the weights are noise, so nothing about accuracy can be learnt from them. Needs
numpy and onnx only.

- C3D: Tran et al., "Learning Spatiotemporal Features with 3D Convolutional Networks", ICCV 2015.
- R3D-18: Tran et al., "A Closer Look at Spatiotemporal Convolutions for Action Recognition", CVPR 2018.
- X3D: Feichtenhofer, "X3D: Expanding Architectures for Efficient Video Recognition", CVPR 2020.
- 3D U-Net: Cicek et al., "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation", MICCAI 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Network:
    """Appends layers to a graph; every method returns the name of the value it made."""

    def __init__(self, name: str, input_shape: Sequence[int]) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._name = name
        self._input = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *input_shape])

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Appends a node with one output, called like the node."""
        self._nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def noise(self, name: str, *shape: int, fan_in: int) -> str:
        """Adds a weight of He-scaled noise."""
        values = self._rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_in))
        self._tensors.append(numpy_helper.from_array(values, name))
        return name

    def zeros(self, name: str, size: int) -> str:
        """Adds a bias of zeros."""
        self._tensors.append(numpy_helper.from_array(np.zeros(size, np.float32), name))
        return name

    def conv(self, name: str, x: str, inp: int, out: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> str:
        """A convolution that keeps the size but for its stride, and a ReLU."""
        weight = self.noise(f"{name}.weight", out, inp, *[kernel] * 3, fan_in=inp * kernel**3)
        y = self.node(
            "Conv",
            name,
            x,
            weight,
            self.zeros(f"{name}.bias", out),
            kernel_shape=[kernel] * 3,
            strides=[stride] * 3,
            pads=[kernel // 2] * 6,
        )
        return self.node("Relu", f"{name}.relu", y) if relu else y

    def depthwise(self, name: str, x: str, channels: int, kernel: Sequence[int], stride: int = 1) -> str:
        """A convolution of each channel by itself, with a stride in height and width."""
        weight = self.noise(f"{name}.weight", channels, 1, *kernel, fan_in=math.prod(kernel))
        bias, pads = self.zeros(f"{name}.bias", channels), [k // 2 for k in kernel] * 2
        return self.node("Conv", name, x, weight, bias, group=channels, strides=[1, stride, stride], pads=pads)

    def excited(self, name: str, x: str, channels: int) -> str:
        """Channels weighted by what all positions hold (squeeze and excitation)."""
        inner = max(8, (channels // 16 + 7) // 8 * 8)
        y = self.node("GlobalAveragePool", f"{name}.mean", x)
        y = self.conv(f"{name}.squeeze", y, channels, inner, kernel=1)
        y = self.conv(f"{name}.excite", y, inner, channels, kernel=1, relu=False)
        return self.node("Mul", f"{name}.scaled", x, self.node("Sigmoid", f"{name}.weights", y))

    def up(self, name: str, x: str, inp: int, out: int) -> str:
        """A transposed convolution that doubles the size."""
        weight = self.noise(f"{name}.weight", inp, out, 2, 2, 2, fan_in=inp)
        bias = self.zeros(f"{name}.bias", out)
        return self.node("ConvTranspose", name, x, weight, bias, kernel_shape=[2] * 3, strides=[2] * 3)

    def pool(self, name: str, x: str, size: Sequence[int]) -> str:
        """Max pooling without overlap."""
        return self.node("MaxPool", name, x, kernel_shape=list(size), strides=list(size))

    def gemm(self, name: str, x: str, inp: int, out: int, relu: bool = True) -> str:
        """A fully connected layer, and a ReLU."""
        weight = self.noise(f"{name}.weight", out, inp, fan_in=inp)
        y = self.node("Gemm", name, x, weight, self.zeros(f"{name}.bias", out), transB=1)
        return self.node("Relu", f"{name}.relu", y) if relu else y

    def model(self, output: str, rank: int) -> onnx.ModelProto:
        """The finished model, with a free batch dimension."""
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)
        graph = helper.make_graph(self._nodes, self._name, [self._input], [value], self._tensors)
        return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])


def c3d(width: int = 32, classes: int = 101) -> onnx.ModelProto:
    """C3D at half width by default (64 in the paper), on 16 frames of 112x112."""
    net = Network("c3d", (3, 16, 112, 112))
    plan = [("1a", 1), ("2a", 2), ("3a", 4), ("3b", 4), ("4a", 8), ("4b", 8), ("5a", 8), ("5b", 8)]
    x, inp = "x", 3
    for name, factor in plan:
        x = net.conv(f"conv{name}", x, inp, width * factor)
        inp = width * factor
        if name in ("1a", "2a", "3b", "4b"):
            x = net.pool(f"pool{name[0]}", x, (1, 2, 2) if name == "1a" else (2, 2, 2))
    x = net.node("Flatten", "flatten", net.pool("pool5", x, (2, 3, 3)))
    x = net.gemm("fc6", x, inp * 1 * 2 * 2, width * 64)
    x = net.gemm("fc7", x, width * 64, width * 64)
    return net.model(net.gemm("fc8", x, width * 64, classes, relu=False), 2)


def r3d18(width: int = 32, classes: int = 101) -> onnx.ModelProto:
    """R3D-18 at half width by default (64 in the paper), on 8 frames of 112x112."""
    net = Network("r3d18", (3, 8, 112, 112))
    weight = net.noise("stem.weight", width, 3, 3, 7, 7, fan_in=3 * 3 * 49)
    bias = net.zeros("stem.bias", width)
    stem = net.node("Conv", "stem", "x", weight, bias, strides=[1, 2, 2], pads=[1, 3, 3, 1, 3, 3])
    x, inp = net.node("Relu", "stem.relu", stem), width
    for stage in range(4):
        out = width * 2**stage
        for block in range(2):
            stride, name = (2 if stage and not block else 1), f"layer{stage + 1}.{block}"
            y = net.conv(f"{name}.conv1", x, inp, out, stride=stride)
            y = net.conv(f"{name}.conv2", y, out, out, relu=False)
            if inp != out:
                x = net.conv(f"{name}.shortcut", x, inp, out, kernel=1, stride=stride, relu=False)
            x, inp = net.node("Relu", f"{name}.relu", net.node("Add", f"{name}.add", x, y)), out
    x = net.node("Flatten", "flatten", net.node("GlobalAveragePool", "pool", x))
    return net.model(net.gemm("fc", x, inp, classes, relu=False), 2)


def x3d(classes: int = 400) -> onnx.ModelProto:
    """X3D-S, with depthwise convolutions over frames, on 13 frames of 160x160."""
    net = Network("x3d", (3, 13, 160, 160))
    weight, bias = net.noise("stem.weight", 24, 3, 1, 3, 3, fan_in=27), net.zeros("stem.bias", 24)
    x = net.node("Conv", "stem", "x", weight, bias, strides=[1, 2, 2], pads=[0, 1, 1] * 2)
    x, inp = net.node("Relu", "stem.relu", net.depthwise("stem.frames", x, 24, (5, 1, 1))), 24
    for stage, (out, depth) in enumerate(((24, 3), (48, 5), (96, 11), (192, 7))):
        inner = out * 9 // 4
        for block in range(depth):
            stride, name = 1 if block else 2, f"layer{stage + 1}.{block}"
            y = net.conv(f"{name}.expand", x, inp, inner, kernel=1)
            y = net.depthwise(f"{name}.depthwise", y, inner, (3, 3, 3), stride)
            y = y if block % 2 else net.excited(name, y, inner)
            y = net.node("Mul", f"{name}.swish", y, net.node("Sigmoid", f"{name}.sigmoid", y))
            y = net.conv(f"{name}.project", y, inner, out, kernel=1, relu=False)
            if not block:
                weight, bias = net.noise(f"{name}.skip.weight", out, inp, 1, 1, 1, fan_in=inp), f"{name}.skip.bias"
                x = net.node("Conv", f"{name}.skip", x, weight, net.zeros(bias, out), strides=[1, 2, 2])
            x, inp = net.node("Relu", f"{name}.relu", net.node("Add", f"{name}.add", x, y)), out
    x = net.node("GlobalAveragePool", "pool", net.conv("last", x, inp, 432, kernel=1))
    x = net.gemm("fc1", net.node("Flatten", "flatten", x), 432, 2048)
    return net.model(net.gemm("fc2", x, 2048, classes, relu=False), 2)


def unet3d(width: int = 16, classes: int = 3) -> onnx.ModelProto:
    """A 3D U-Net of three levels on one channel of 64x64x64."""
    net = Network("unet3d", (1, 64, 64, 64))
    x, inp = "x", 1
    skips: list[tuple[str, int]] = []
    for level in range(3):
        out = width * 2**level
        x = net.conv(f"down{level}.b", net.conv(f"down{level}.a", x, inp, out), out, out * 2)
        inp = out * 2
        if level < 2:
            skips.append((x, inp))
            x = net.pool(f"pool{level}", x, (2, 2, 2))
    for level in (1, 0):
        skip, channels = skips[level]
        joined = net.node("Concat", f"join{level}", net.up(f"up{level}", x, inp, inp), skip, axis=1)
        x = net.conv(f"up{level}.b", net.conv(f"up{level}.a", joined, inp + channels, channels), channels, channels)
        inp = channels
    return net.model(net.conv("head", x, inp, classes, kernel=1, relu=False), 5)


BUILDERS: dict[str, Callable[[], onnx.ModelProto]] = {"c3d": c3d, "r3d18": r3d18, "x3d": x3d, "unet3d": unet3d}
