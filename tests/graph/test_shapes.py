from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.errors import UsageError
from onnx_tucker.graph.shapes import declared, infer
from tests.helpers import conv_model, model, two_layers

WEIGHT = np.ones((4, 3, 3, 3), np.float32)


def test_a_free_first_dimension_counts_as_one_and_the_rest_stays_unknown() -> None:
    shapes = infer(two_layers(), Path(), {}, {})
    assert shapes["x"] == (1, 24, 16, 16)
    assert shapes["c"] == (1, 32, 16, 16)
    assert shapes["y"] == (1, 48)
    assert "y" not in infer(conv_model(WEIGHT, size=["h", "w"]), Path(), {}, {})


def test_dimensions_and_shapes_can_be_given() -> None:
    free = conv_model(WEIGHT, size=["h", "w"])
    assert infer(free, Path(), {}, {"h": 9, "w": 7})["y"] == (1, 4, 7, 5)
    assert infer(free, Path(), {"x": (2, 3, 9, 7)}, {})["y"] == (2, 4, 7, 5)
    assert infer(free, Path(), {}, {"n": 5, "h": 9, "w": 7})["y"] == (5, 4, 7, 5)


def test_names_of_sizes_hold_in_bodies_too() -> None:
    """What goes round in a loop has no other shape than what its body says."""
    body = helper.make_graph(
        [
            helper.make_node("Conv", ["v", "w"], ["c"], pads=[1] * 4),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 4, 9, 7]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("c", TensorProto.FLOAT, None),
        ],
    )
    tensors = {"times": np.array(2), "w": np.ones((4, 4, 3, 3), np.float32)}
    made = model(
        [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)], tensors, {"x": ["n", 4, 9, 7]}, {"y": 4}
    )
    assert infer(made, Path(), {}, {"n": 5})["c"] == (5, 4, 9, 7)


def test_a_constant_that_gives_nothing_is_none() -> None:
    made = two_layers()
    made.graph.node.append(helper.make_node("Constant", [], [], "nothing", value=numpy_helper.from_array(WEIGHT)))
    assert declared(made, Path()).shapes["c"] == ("n", 32, 16, 16)


def test_a_name_may_be_stored_in_one_body_and_computed_in_another() -> None:
    def branch(stored: bool) -> onnx.GraphProto:
        nodes = [helper.make_node("Relu", ["x" if not stored else "t"], ["out" if stored else "t"])]
        nodes += [] if stored else [helper.make_node("Relu", ["t"], ["out"])]
        tensors = [numpy_helper.from_array(np.ones((1, 2, 4), np.float32), "t")] if stored else []
        outputs = [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, None)]
        return helper.make_graph(nodes, "branch", [], outputs, tensors)

    chosen = helper.make_node("If", ["c"], ["y"], then_branch=branch(True), else_branch=branch(False))
    made = model([chosen], {"c": np.array(True)}, {"x": [1, 2, 3]}, {"y": 3})
    assert "t" not in infer(made, Path(), {}, {})


def test_the_model_is_not_touched() -> None:
    made = two_layers()
    infer(made, Path(), {"x": (2, 24, 16, 16)}, {})
    assert made == two_layers()


@pytest.mark.parametrize(
    ("shapes", "dims", "words"),
    [
        ({"z": (1, 3, 9, 7)}, {}, "no such input; it has x"),
        ({"x": (1, 3, 9)}, {}, "does not fit"),
        ({"x": (1, 5, 9, 7)}, {}, "does not fit the model's n,3,h,w"),
        ({}, {"q": 1}, "there is h, n, w"),
    ],
)
def test_names_and_shapes_that_do_not_fit(shapes: dict[str, tuple[int, ...]], dims: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        infer(conv_model(WEIGHT, size=["h", "w"]), Path(), shapes, dims)


def test_pads_that_are_computed_in_the_graph() -> None:
    """The way that PyTorch's exporter writes functional padding."""
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["count"], ["zeros"], value=helper.make_tensor("v", TensorProto.INT64, [1], [0])
        ),
        helper.make_node("Concat", ["some", "zeros"], ["flat"], axis=0),
        helper.make_node("Reshape", ["flat", "pairs"], ["rows"]),
        helper.make_node("Slice", ["rows", "start", "stop", "axis", "step"], ["turned"]),
        helper.make_node("Transpose", ["turned"], ["columns"], perm=[1, 0]),
        helper.make_node("Reshape", ["columns", "minus"], ["again"]),
        helper.make_node("Cast", ["again"], ["pads"], to=TensorProto.INT64),
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "w"], ["y"], "conv"),
    ]
    numbers = {
        "count": [4],
        "some": [1, 2],
        "pairs": [-1, 2],
        "start": [-1],
        "stop": [-9223372036854775807],
        "axis": [0],
        "step": [-1],
        "minus": [-1],
    }
    tensors = {name: np.array(value, np.int64) for name, value in numbers.items()} | {
        "w": np.ones((4, 3, 3), np.float32)
    }
    shapes = infer(model(nodes, tensors, {"x": ["n", 3, 6]}, {"y": 3}), Path(), {}, {})
    assert shapes["padded"] == (1, 3, 9)
    assert shapes["y"] == (1, 4, 7)


def test_shapes_that_are_read_from_other_shapes() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Mul", ["n", "two"], ["m"]),
        helper.make_node("Concat", ["m", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["r", "target"], ["y"]),
    ]
    tensors = {"zero": np.array([0]), "two": np.array([2]), "rest": np.array([-1])}
    assert infer(model(nodes, tensors, {"x": ["n", 6]}, {"y": 2}), Path(), {}, {"n": 3})["y"] == (6, 3)


def test_what_is_reshaped_again_and_again_is_seen_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in attention of dynamic size: each pass over all nodes would else find the shapes of one layer more."""
    nodes = [helper.make_node("Relu", ["x"], ["y0"])]
    for i in range(12):
        nodes += [
            helper.make_node("Shape", [f"y{i}"], [f"s{i}"]),
            helper.make_node("Gather", [f"s{i}", "zero"], [f"n{i}"]),
            helper.make_node("Concat", [f"n{i}", "rest"], [f"t{i}"], axis=0),
            helper.make_node("Reshape", [f"y{i}", f"t{i}"], [f"y{i + 1}"]),
        ]
    made = model(nodes, {"zero": np.array([0]), "rest": np.array([2, 3])}, {"x": ["n", 6]}, {"y12": 3})
    passes, inferred = [], onnx.shape_inference.infer_shapes
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", lambda *a, **o: passes.append(1) or inferred(*a, **o))
    assert infer(made, Path(), {}, {"n": 5})["y12"] == (5, 2, 3)
    assert len(passes) <= 6  # two each, the second with what is known of values


@pytest.mark.parametrize(("batch", "known"), [("n", (None, None, None)), (1, (1, 8, 16))])
def test_what_is_said_of_other_operators_may_be_of_the_size_that_was_traced(
    batch: int | str, known: tuple[int | None, ...]
) -> None:
    nodes = [
        helper.make_node("QuickGelu", ["x"], ["q"], domain="com.microsoft"),
        helper.make_node("Relu", ["q"], ["y"]),
    ]
    made = model(nodes, {}, {"x": [batch, 8, 16]}, {"y": 3})
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    made.graph.value_info.append(helper.make_tensor_value_info("q", TensorProto.FLOAT, [1, 8, 16]))
    found = [None if isinstance(size, str) else size for size in declared(made, Path()).shapes["q"]]
    assert tuple(found) == known
    assert infer(made, Path(), {}, {})["y"] == (1, 8, 16)


def test_inputs_with_a_default_are_no_inputs() -> None:
    made = model(
        [helper.make_node("Add", ["x", "w"], ["y"])], {"w": np.ones(3, np.float32)}, {"x": [3]}, {"y": 1}, ir_version=3
    )
    with pytest.raises(UsageError, match="it has x"):
        infer(made, Path(), {"w": (3,)}, {})


def test_a_first_symbol_that_stands_behind_another_is_no_batch() -> None:
    node = helper.make_node("Mul", ["x", "mask"], ["y"])
    masked = model([node], {}, {"x": ["n", 3, "h", "w"], "mask": ["h", "w"]}, {"y": 4})
    assert "y" not in infer(masked, Path(), {}, {})
    assert infer(masked, Path(), {}, {}, {"x": (1, 3, 5, 7), "mask": (5, 7)})["y"] == (1, 3, 5, 7)
    states = model([helper.make_node("Add", ["x", "s"], ["y"])], {}, {"x": ["n", 4], "s": [2, "n", 4]}, {"y": 3})
    assert infer(states, Path(), {}, {})["s"] == (2, 1, 4)


@pytest.mark.parametrize(
    ("op_type", "attributes", "scales", "known"),
    [
        ("Resize", {}, [1, 1, 2, 2, 2], True),
        ("Resize", {}, [1, 1, 0.5, 1, 1], True),
        ("Resize", {}, [1, 1, 1.3, 1, 1], False),
        ("MaxPool", {"kernel_shape": [3, 3, 3], "auto_pad": "SAME_UPPER"}, None, True),
        ("MaxPool", {"kernel_shape": [3, 3, 3], "auto_pad": "SAME_UPPER", "dilations": [2, 1, 1]}, None, False),
        ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 2, 2]}, None, True),
        ("ConvTranspose", {"auto_pad": "SAME_UPPER", "strides": [2, 2, 2], "output_padding": [1, 0, 0]}, None, False),
    ],
)
def test_sizes_on_which_onnx_and_onnxruntime_may_differ_are_not_built_on(
    op_type: str, attributes: dict[str, Any], scales: list[float] | None, known: bool
) -> None:
    tensors = {"w": np.ones((2, 2, 3, 3, 3), np.float32)} if op_type == "ConvTranspose" else {}
    tensors |= {"s": np.array(scales, np.float32)} if scales else {}
    inputs = ["x", "", "s"] if scales else ["x", *tensors]
    made = model([helper.make_node(op_type, inputs, ["y"], **attributes)], tensors, {"x": [1, 2, 10, 8, 8]}, {"y": 5})
    assert ("y" in declared(made, Path()).shapes) == known


@pytest.mark.parametrize(("scale", "known"), [(2.0, True), (44 / 38, False)])
@pytest.mark.parametrize("how", ["listed", "joined", "computed"])
def test_scales_may_be_constants_of_any_kind(how: str, scale: float, known: bool) -> None:
    scales, tensors = [1, 1, 1, scale, 1], {}
    if how == "listed":
        nodes = [helper.make_node("Constant", [], ["s"], value_floats=scales)]
    elif how == "joined":
        tensors = {"a": np.float32(scales[:3]), "b": np.float32(scales[3:])}
        nodes = [helper.make_node("Concat", ["a", "b"], ["s"], axis=0)]
    else:  # from the size, as interpolate(size=...) is written
        known = False
        tensors = {"size": np.float32([1, 2, 10, 38 * scale, 8])}
        nodes = [
            helper.make_node("Shape", ["x"], ["n"]),
            helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["size", "f"], ["s"]),
        ]
    nodes.append(helper.make_node("Resize", ["x", "", "s"], ["y"]))
    assert ("y" in declared(model(nodes, tensors, {"x": [1, 2, 10, 38, 8]}, {"y": 5}), Path()).shapes) == known


def test_of_very_many_numbers_it_is_not_followed_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a damaged model may claim; onnx would list them."""
    original = onnx.shape_inference.infer_shapes

    def watched(made: onnx.ModelProto, data_prop: bool = False) -> onnx.ModelProto:
        assert not data_prop
        return original(made)

    nodes = [
        helper.make_node("ConstantOfShape", ["count"], ["zeros"]),
        helper.make_node("Cast", ["zeros"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "one"], ["y"]),
    ]
    made = model(nodes, {"count": np.int64([2**31 - 1]), "one": np.int64([1])}, {}, {"y": 1})
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", watched)
    assert infer(made, Path(), {}, {})["whole"] == (2**31 - 1,)
