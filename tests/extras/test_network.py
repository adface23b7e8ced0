"""ONNX graphs in torch against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.errors import ModelError
from onnx_tucker.graph.trainable import trainable
from tests.helpers import REAL, factorised, model, relative, run, two_layers

torch = pytest.importorskip("torch")
network = pytest.importorskip("onnx_tucker.extras.network")

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20, 22])
def test_nodes_of_other_versions_compute_the_same(opset: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("HardSigmoid", ["c"], ["h"], "hard"),
        helper.make_node("Reshape", ["h", "shape"], ["r"], "reshape"),
        helper.make_node("ReduceMean", ["r", "axes"], ["y"], "mean", keepdims=0)
        if opset >= 18
        else helper.make_node("ReduceMean", ["r"], ["y"], "mean", axes=[1], keepdims=0),
    ]
    tensors = {
        "w": RNG.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "shape": np.array([0, 4, -1], np.int64),
        **({"axes": np.array([1], np.int64)} if opset >= 18 else {}),
    }
    made = model(nodes, tensors, {"x": [2, 3, 8, 8]}, {"y": 2}, opset=opset)
    x = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
    [y] = network.Network(made, ["w"]).run({"x": x}, ["y"])
    assert relative(run(made, x=x)[0], y.detach().numpy()) < 1e-5


@pytest.mark.parametrize("method", [None, "tucker2"])
@pytest.mark.parametrize(
    "form", ["frames_in", "frames_out_columns2", "tiles2", "tiles3_split", "tiles4_split_columns2"]
)
def test_weights_on_frames_are_trained_through_what_is_computed_from_them(method: str | None, form: str) -> None:
    weight = RNG.standard_normal((8, 8, 3, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 6)
    made = factorised(model([node], {"w": weight}, {"x": [1, 8, 8, 8, 8]}, {"y": 5}), {"conv": (method, None, form)})
    names = trainable(made)
    assert len(names) == (3 if method else 1)
    x = RNG.standard_normal((1, 8, 8, 8, 8)).astype(np.float32)
    net = network.Network(made, names)
    [y] = net.run({"x": x}, ["y"])
    assert relative(run(made, x=x)[0], y.detach().numpy()) < 1e-4
    y.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in net.weights.values())


def test_weights_that_are_not_finite_are_not_trained() -> None:
    weight, bias = np.ones((4, 3), np.float32), np.array([0, 1, -np.inf], np.float32)
    made = model([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": weight, "b": bias}, {"x": [2, 4]}, {"y": 2})
    assert list(network.Network(made, trainable(made)).weights) == ["w"]


def test_what_torch_does_not_give_is_named() -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["m", "where"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    net = network.Network(model(nodes, {}, {"x": [1, 2, 4, 4]}, {"y": 4}), ())
    x = RNG.standard_normal((1, 2, 4, 4)).astype(np.float32)
    assert net.arrays({"x": x}, ["y"])[0].shape == (1, 2, 3, 3)
    with pytest.raises(ModelError, match=r"torch does not give 'where' of the MaxPool 'pool'\."):
        net.run({"x": x}, ["where"])


def test_nodes_that_share_a_weight_go_on_sharing_it() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "second"),
    ]
    made = model(nodes, {"w": RNG.standard_normal((4, 4)).astype(np.float32)}, {"x": [3, 4]}, {"y": 2})
    net = network.Network(made, ["w"])
    assert list(net.weights) == ["w"]
    with torch.no_grad():
        net.weights["w"].mul_(2)
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    assert relative(4 * run(made, x=x)[0], net.run({"x": x}, ["y"])[0].detach().numpy()) < 1e-5


def test_a_node_that_torch_does_not_know_is_named() -> None:
    made = model([helper.make_node("Mystery", ["x"], ["y"], "riddle", domain="nobody")], {}, {"x": [2]}, {"y": 1})
    made.opset_import.append(helper.make_opsetid("nobody", 1))
    with pytest.raises(ModelError, match="the Mystery 'riddle'"):
        network.Network(made, [])


def test_values_on_the_way_can_be_given_and_asked_for() -> None:
    made = two_layers()
    x = RNG.standard_normal((2, 24, 16, 16)).astype(np.float32)
    net = network.Network(made, trainable(made))
    [pooled] = net.run({"x": x}, ["f"])
    [y] = net.run({"f": pooled.detach().numpy()}, ["y"])
    assert relative(run(made, x=x)[0], y.detach().numpy()) < 1e-5


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="there are no trained models of other people here")
@pytest.mark.parametrize("name", ["voxel_trees", "docking_cnn", "brain_meshnet", "cifar_resnet20", "crepe_tiny"])
def test_a_real_model(name: str) -> None:
    path = REAL / name / "model.onnx"
    with np.load(path.with_name("calib.npz"), allow_pickle=False) as file:
        x = file["x"][:1].astype(np.float32)
    x = x[..., :32, :32, :32] if name == "brain_meshnet" else x
    result = compress(path, ranks="ratio:0.4", input_shape={"x": x.shape}, benchmark=False).model
    [y] = network.Network(result, trainable(result)).run({"x": x}, [result.graph.output[0].name])
    assert relative(run(result, x=x)[0], y.detach().numpy()) < 1e-4


def test_the_standard_domain_may_go_by_its_other_name() -> None:
    made = two_layers()
    x = RNG.standard_normal((1, 24, 16, 16)).astype(np.float32)
    [expected] = run(made, x=x)
    for node in made.graph.node:
        node.domain = "ai.onnx"
    [found] = network.Network(made, trainable(made)).run({"x": x}, ["y"])
    assert relative(expected, found.detach().numpy()) < 1e-5
