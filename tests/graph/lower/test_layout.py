"""Frames are carried from one convolution to the next, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnx_tucker.forms import FORMS
from onnx_tucker.graph.lower.carriers import POINTWISE, TOGETHER
from onnx_tucker.graph.lower.layout import lay_out
from onnx_tucker.graph.nodes import Names
from onnx_tucker.planning.ways import forms_of
from onnx_tucker.runtime.session import FAILURES
from tests.adjoints.test_rules import OLD
from tests.helpers import Array, factorised, look, model, relative, run

SIZE = (8, 8, 8)
FRAMED = (None, None, "frames_in")


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def conv(name: str, x: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], [name], name, pads=[1] * 6)


def network(*between: onnx.NodeProto, opset: int = 18, **tensors: Array) -> onnx.ModelProto:
    """Convolutions `a` and `c` on the input, the nodes between that make `m` from them, and a convolution on `m`."""
    nodes = [conv("a", "x"), *([conv("c", "x")] if any("c" in n.input for n in between) else []), *between]
    nodes.append(conv("last", "m"))
    channels = 8 if any(n.op_type == "Concat" for n in between) else 4
    for name in ("a", "c", "last"):
        inp = channels if name == "last" else 3
        tensors |= {f"{name}.w": noise(4, inp, 3, 3, 3) / np.float32(9), f"{name}.b": noise(4)}
    used = {i for n in nodes for i in n.input}
    kept = {name: tensor for name, tensor in tensors.items() if name in used}
    return model(nodes, kept, {"x": ["n", 3, *SIZE]}, {"last": 5}, opset=opset)


def transposes(made: onnx.ModelProto) -> int:
    """Transposes of values; those of weights are folded away."""
    return sum(n.op_type == "Transpose" and list(n.attribute[0].ints) == [0, 2, 1, 3, 4] for n in made.graph.node)


def lowered(made: onnx.ModelProto) -> onnx.ModelProto:
    context, found = look(made)
    sites = [f for f in found if FORMS["frames_in"] in forms_of(context, f, [f.site.stage])]
    result = factorised(made, {f.label: FRAMED for f in sites})
    onnx.checker.check_model(result, full_check=True)
    x = noise(2, 3, *SIZE)
    for before, after in zip(run(made, x=x), run(result, x=x), strict=True):
        assert before.shape == after.shape
        assert relative(before, after) < 1e-5
    return result


@pytest.mark.parametrize("op", sorted(POINTWISE))
def test_functions_of_one_value_are_carried(op: str) -> None:
    opset = onnx.defs.get_schema(op, 20).since_version
    positive = [helper.make_node("Exp", ["a"], ["p"])] if op in ("Log", "Sqrt", "Reciprocal") else []
    made = network(*positive, helper.make_node(op, ["p" if positive else "a"], ["m"]), opset=max(opset, 13))
    assert transposes(lowered(made)) == 2


@pytest.mark.parametrize("op", sorted(TOGETHER))
def test_functions_of_values_alike_are_carried(op: str) -> None:
    positive = [helper.make_node("Exp", ["a"], ["p"])] if op == "Pow" else []
    made = network(*positive, helper.make_node(op, ["p" if positive else "a", "c"], ["m"]))
    assert transposes(lowered(made)) == 2


NODES: dict[str, tuple[onnx.NodeProto, dict[str, Array]]] = {
    "clip": (helper.make_node("Clip", ["a", "low", "high"], ["m"]), {"low": np.float32(-0.5), "high": np.float32(0.5)}),
    "leaky": (helper.make_node("LeakyRelu", ["a"], ["m"], alpha=0.3), {}),
    "slope": (helper.make_node("PRelu", ["a", "s"], ["m"]), {"s": noise(1, 1, 1, 1)}),
    "slopes": (helper.make_node("PRelu", ["a", "s"], ["m"]), {"s": noise(4, 1, 1, 1)}),
    "add to all": (helper.make_node("Add", ["a", "s"], ["m"]), {"s": noise(1, 4, 1, 1, 1)}),
    "from one": (helper.make_node("Sub", ["s", "a"], ["m"]), {"s": np.float32(1)}),
    "squares": (helper.make_node("Pow", ["a", "s"], ["m"]), {"s": np.array([2])}),
    "sum of all": (helper.make_node("Sum", ["s", "a", "c", "t"], ["m"]), {"s": noise(1), "t": noise(4, 1, 1, 1)}),
    "softmax": (helper.make_node("Softmax", ["a"], ["m"], axis=1), {}),
    "concat": (helper.make_node("Concat", ["a", "c"], ["m"], axis=1), {}),
    "concat from behind": (helper.make_node("Concat", ["a", "c"], ["m"], axis=-4), {}),
    "norm": (
        helper.make_node("BatchNormalization", ["a", "s", "t", "u", "v"], ["m"], epsilon=1e-3),
        {"s": noise(4), "t": noise(4, seed=1), "u": noise(4, seed=2), "v": np.abs(noise(4, seed=3))},
    ),
}


@pytest.mark.parametrize("kind", NODES)
def test_other_nodes_that_are_carried(kind: str) -> None:
    node, tensors = NODES[kind]
    assert transposes(lowered(network(node, **tensors))) == 2


OTHERS: dict[str, tuple[onnx.NodeProto, dict[str, Array]]] = {
    "softmax over frames": (helper.make_node("Softmax", ["a"], ["m"], axis=2), {}),
    "concat of frames": (helper.make_node("Concat", ["a", "a"], ["m"], axis=2), {}),
    "add to columns": (helper.make_node("Add", ["a", "s"], ["m"]), {"s": noise(1, 1, 1, 1, SIZE[2])}),
    "slopes of frames": (helper.make_node("PRelu", ["a", "s"], ["m"]), {"s": noise(1, SIZE[0], 1, 1)}),
    "rounded up": (
        helper.make_node("MaxPool", ["a"], ["m"], kernel_shape=[3] * 3, strides=[3] * 3, ceil_mode=1),
        {},
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_does_not_work_on_frames_is_left_alone(kind: str) -> None:
    node, tensors = OTHERS[kind]
    made = network(node, **tensors)
    if kind == "concat of frames":  # twice the channels are not made, but twice the frames
        made.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(noise(4, 4, 3, 3, 3), "last.w"))
    result = lowered(made)
    assert transposes(result) == (2 if kind == "rounded up" else 4)  # there, sizes are not known for sure
    assert node in result.graph.node


@pytest.mark.parametrize("op", ["PRelu", "Mul"])
def test_a_constant_that_callers_may_replace_is_none(op: str) -> None:
    made = network(helper.make_node(op, ["a", "s"], ["m"]), s=noise(4, 1, 1, 1))
    made.graph.input.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, [4, 1, 1, 1]))
    result, x = lowered(made), noise(2, 3, *SIZE)
    given = {"x": x, "s": noise(4, 1, 1, 1, seed=7)}
    assert relative(run(made, **given)[0], run(result, **given)[0]) < 1e-5


@st.composite
def pools(draw: st.DrawFn) -> onnx.ModelProto:
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    opset = draw(st.sampled_from([11, 13, 18, 19]))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=3, max_size=3))

    kernel = each(1, 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": each(1, 3)}
    attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    if op == "AveragePool":
        pads_count = not (OLD and opset >= 19)  # that onnxruntime counts them otherwise in 3D than in 2D
        attributes["count_include_pad"] = draw(st.integers(0, int(pads_count)))
    if op == "MaxPool" or opset >= 19:
        attributes["dilations"] = each(1, 2)
    if draw(st.booleans()):
        attributes["ceil_mode"] = draw(st.integers(0, 1))
    return network(helper.make_node(op, ["a"], ["m"], "pool", **attributes), opset=opset)


@settings(max_examples=150)
@given(pools())
def test_pools_are_carried(made: onnx.ModelProto) -> None:
    try:
        run(made, x=noise(2, 3, *SIZE))
    except FAILURES:
        assume(False)
    lowered(made)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_common_pools_need_no_transposes(op: str) -> None:
    for kernel, strides, pads in (
        ([2] * 3, [2] * 3, [0] * 6),
        ([3] * 3, [2] * 3, [1] * 6),
        ([1, 2, 2],) * 2 + ([0] * 6,),
    ):
        made = network(helper.make_node(op, ["a"], ["m"], kernel_shape=kernel, strides=strides, pads=pads))
        assert transposes(lowered(made)) == 2


def test_a_global_pool_ends_the_frames() -> None:
    nodes = [conv("a", "x"), helper.make_node("GlobalAveragePool", ["a"], ["p"], "pool")]
    made = model(nodes, {"a.w": noise(4, 3, 3, 3, 3), "a.b": noise(4)}, {"x": ["n", 3, *SIZE]}, {"p": 5})
    assert transposes(lowered(made)) == 1


def test_a_value_is_converted_once_and_only_where_it_is_needed() -> None:
    """`a` goes to two others and to an output of the model; `x` to two convolutions."""
    made = network(
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("ReduceMean", ["r"], ["mean"], keepdims=0),
        helper.make_node("Softmax", ["r"], ["soft"], axis=2),
        helper.make_node("Add", ["r", "c"], ["m"]),
    )
    made.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 5) for n in ("a", "soft"))
    made.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, []))
    result = lowered(made)
    assert transposes(result) == 1 + 3  # in: x; out: a, r and last
    assert sum(n.op_type == "Add" for n in result.graph.node) == 1


def test_values_that_bodies_need_are_left() -> None:
    body = helper.make_graph(
        [helper.make_node("Relu", ["a"], ["inner"])], "body", [], [helper.make_tensor_value_info("inner", 1, None)]
    )
    made = network(helper.make_node("If", ["yes"], ["m"], "if", then_branch=body, else_branch=body), yes=np.array(True))
    context, _ = look(made)
    layout = lay_out(context, {"a"}, Names(made))
    assert set(layout.left) == {"a"}
    result = factorised(made, {"a": FRAMED})
    x = noise(1, 3, *SIZE)
    assert relative(run(made, x=x)[0], run(result, x=x)[0]) < 1e-5


def test_what_is_said_of_values_that_are_gone_goes_too() -> None:
    made = network(helper.make_node("Relu", ["a"], ["m"]))
    for name in ("a", "m"):
        made.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4, *SIZE]))
    assert not lowered(made).graph.value_info
    assert [v.name for v in factorised(made, {"a": FRAMED}).graph.value_info] == ["m"]


def test_names_that_are_taken_are_left_alone() -> None:
    made = network(helper.make_node("Relu", ["a"], ["m"], "x/frames"))
    for old, new in (("a", "m/frames"), ("m", "last/frames")):
        for node in made.graph.node:
            for values in (node.input, node.output):
                for i, name in enumerate(values):
                    values[i] = new if name == old else name
    lowered(made)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("opset", [7, 11, 12])
def test_a_softmax_of_all_axes_from_one_on_is_left_alone(op: str, opset: int) -> None:
    made = network(helper.make_node(op, ["a"], ["m"], axis=1), opset=opset)
    assert transposes(lowered(made)) == 4


@pytest.mark.parametrize("batches", [("n", 1), (1, "n"), ("n", "k")])
@pytest.mark.parametrize("op", ["Add", "Concat"])
def test_values_of_other_batches_are_put_together_as_they_are(batches: tuple[str | int, ...], op: str) -> None:
    if op == "Concat":
        batches = ("n", "k")
    nodes = [conv("a", "x"), helper.make_node("Conv", ["z", "a.w", "a.b"], ["c"], "c", pads=[1] * 6)]
    nodes.append(helper.make_node(op, ["a", "c"], ["y"], **({"axis": 1} if op == "Concat" else {})))
    inputs = {name: [batch, 3, *SIZE] for name, batch in zip("xz", batches, strict=True)}
    made = model(nodes, {"a.w": noise(4, 3, 3, 3, 3), "a.b": noise(4)}, inputs, {"y": 5})
    result = factorised(made, {"a": FRAMED, "c": FRAMED})
    assert nodes[-1] in result.graph.node
    feed = {name: noise(1 if batch == 1 else 2, 3, *SIZE) for name, batch in zip("xz", batches, strict=True)}
    assert relative(run(made, **feed)[0], run(result, **feed)[0]) < 1e-5


def test_inputs_of_one_batch_stay_on_frames_together() -> None:
    nodes = [conv("a", "x"), helper.make_node("Conv", ["z", "a.w", "a.b"], ["c"], "c", pads=[1] * 6)]
    nodes.append(helper.make_node("Add", ["a", "c"], ["y"]))
    inputs = {name: ["n", 3, *SIZE] for name in "xz"}
    made = model(nodes, {"a.w": noise(4, 3, 3, 3, 3), "a.b": noise(4)}, inputs, {"y": 5})
    assert transposes(factorised(made, {"a": FRAMED, "c": FRAMED})) == 3


def test_norms_of_each_element_and_windows_in_the_padding_are_left_alone() -> None:
    parameters = {name: np.abs(noise(4, *SIZE, seed=i)) for i, name in enumerate("stuv")}
    node = helper.make_node("BatchNormalization", ["a", *"stuv"], ["m"], spatial=0)
    made = network(node, opset=8, **parameters)
    assert node in factorised(made, {"a": FRAMED, "last": FRAMED}).graph.node
    far = helper.make_node(
        "MaxPool", ["a"], ["m"], kernel_shape=[2, 1, 1], dilations=[2, 1, 1], pads=[1, 0, 0, 1, 0, 0]
    )
    made = network(far)
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 1
    assert far in factorised(made, {"a": FRAMED}).graph.node


def test_old_models_list_all_initializers_as_inputs() -> None:
    nodes = [conv("a", "x"), helper.make_node("Relu", ["a"], ["y"])]
    tensors = {"a.w": noise(4, 3, 3, 3, 3), "a.b": noise(4)}
    made = model(nodes, tensors, {"x": ["n", 3, *SIZE]}, {"y": 5}, ir_version=3, opset=8)
    for form in ("frames_in", "tiles2", "tiles2_split_columns2"):
        result = factorised(made, {"a": (None, None, form)})
        onnx.checker.check_model(result, full_check=True)
        x = noise(2, 3, *SIZE)
        assert relative(run(made, x=x)[0], run(result, x=x)[0]) < 1e-5


def test_sizes_that_callers_or_bodies_may_change_are_not_fixed() -> None:
    shape = np.array([-1, 3, *SIZE])
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["r"]), conv("a", "r")]
    tensors = {"shape": shape, "a.w": noise(4, 3, 3, 3, 3), "a.b": noise(4)}
    made = model(nodes, tensors, {"x": ["n", 3 * 8**3]}, {"a": 5})
    assert forms_of(*fitted(made))
    made.graph.input.append(helper.make_tensor_value_info("shape", TensorProto.INT64, [5]))
    assert not forms_of(*fitted(made))[1:]


def fitted(made: onnx.ModelProto) -> tuple[Any, Any, Any]:
    context, [found] = look(made)
    return context, found, [found.site.stage]


def test_very_many_frames_and_very_old_opsets_keep_their_form() -> None:
    tensors = {"a.w": noise(4, 3, 3, 3, 3), "a.b": noise(4)}
    assert not forms_of(*fitted(model([conv("a", "x")], tensors, {"x": ["n", 3, 300, 4, 4]}, {"a": 5})))[1:]
    old = model([conv("a", "x")], tensors, {"x": ["n", 3, *SIZE]}, {"a": 5}, opset=6, ir_version=6)
    assert not forms_of(*fitted(old))[1:]


def test_annotations_of_values_that_are_gone_go_too() -> None:
    made = network(helper.make_node("Relu", ["a"], ["m"]))
    for name in ("a", "x"):
        annotation = made.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="a.b")
    assert [a.tensor_name for a in lowered(made).graph.quantization_annotation] == ["x"]
