"""Which initializers are weights and biases."""

from __future__ import annotations

import numpy as np
from onnx import helper

from onnx_tucker.graph.trainable import trainable
from tests.helpers import factorised, model, two_layers


def test_weights_and_biases_of_linear_nodes() -> None:
    assert trainable(two_layers()) == ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]


def test_factors_and_no_constants_of_what_is_on_frames() -> None:
    tensors = {"w": np.ones((4, 4, 3, 3, 3), np.float32), "b": np.ones(4, np.float32)}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[1] * 6)
    made = model([node], tensors, {"x": [1, 4, 8, 8, 8]}, {"y": 5})
    for bias in ("b", "encoder/constant1"):
        made.graph.node[0].input[2] = made.graph.initializer[1].name = bias
        for form in ("direct", "frames_in", "tiles3_split"):
            names = trainable(factorised(made, {"conv": ("tucker2", (2, 2), form)}))
            assert names == [f"conv/tucker2/{i}/weight" for i in range(3)] + [bias]


def test_weights_that_callers_see_are_left_alone() -> None:
    made = two_layers()
    shown = next(t for t in made.graph.initializer if t.name in trainable(made))
    made.graph.output.append(helper.make_tensor_value_info(shown.name, shown.data_type, list(shown.dims)))
    assert shown.name not in trainable(made)


def test_only_what_is_added_everywhere_to_a_product_with_a_weight_is_a_bias() -> None:
    """Positions and the masks of an attention are none, nor is what is added to a product of two activations."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Add", ["places", "p"], ["q"], "positions"),
        helper.make_node("MatMul", ["x", "v"], ["k"], "keys"),
        helper.make_node("Add", ["k", "bias"], ["l"], "add"),
        helper.make_node("MatMul", ["q", "l"], ["s"], "scores"),
        helper.make_node("Add", ["s", "mask"], ["y"], "masked"),
    ]
    square = np.ones((4, 4), np.float32)
    tensors = {**dict.fromkeys(("w", "v", "places"), square), **dict.fromkeys(("bias", "mask"), square[0])}
    assert trainable(model(nodes, tensors, {"x": [4, 4]}, {"y": 2})) == ["w", "v", "bias"]


def test_norms_scales_integers_and_replaceable_weights_are_left_alone() -> None:
    ones = np.ones(4, np.float32)
    nodes = [
        helper.make_node("BatchNormalization", ["x", "s", "o", "m", "v"], ["n"], "norm"),
        helper.make_node("Mul", ["n", "k"], ["h"], "scale"),
        helper.make_node("MatMul", ["h", "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "bias"], ["q"], "add"),
        helper.make_node("MatMul", ["q", "given"], ["y"], "open"),
    ]
    tensors = dict.fromkeys(("s", "o", "m", "v", "k", "bias"), ones) | {
        "w": np.ones((4, 4), np.float32),
        "given": np.ones((4, 4), np.float32),
    }
    made = model(nodes, tensors, {"x": [2, 4]}, {"y": 2})
    made.graph.input.append(helper.make_tensor_value_info("given", 1, [4, 4]))
    assert trainable(made) == ["w", "bias"]
    wide = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": np.ones((4, 4))}, {"x": [2, 4]}, {"y": 2}
    )
    assert trainable(wide) == []
