"""Weights are found wherever they live, and what only they needed goes with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from onnx_tucker import compress
from tests.helpers import Array, factorised, look, low_rank, model, reasons, relative, run

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((6, 4)).astype(np.float32)
X = RNG.standard_normal((3, 4)).astype(np.float32)

WHEREABOUTS: dict[str, Callable[[], ModelProto]] = {}
"""Models of one Gemm named "gemm", Y = X W', by where W comes from."""


def whereabouts(build: Callable[[], ModelProto]) -> Callable[[], ModelProto]:
    WHEREABOUTS[build.__name__] = build
    return build


def gemm(weight: str = "w", **attributes: int) -> onnx.NodeProto:
    return helper.make_node("Gemm", ["x", weight], ["y"], "gemm", **{"transB": 1, **attributes})


def made_of(nodes: list[onnx.NodeProto], opset: int = 18, **tensors: Array) -> ModelProto:
    return model(nodes, tensors, {"x": [3, 4]}, {"y": 2}, opset=opset)


@whereabouts
def initializer() -> ModelProto:
    return made_of([gemm()], w=WEIGHT)


@whereabouts
def constant_node() -> ModelProto:
    value = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT))
    return made_of([value, gemm()])


@whereabouts
def through_identity() -> ModelProto:
    return made_of([helper.make_node("Identity", ["w0"], ["w"]), gemm()], w0=WEIGHT)


@whereabouts
def through_transpose() -> ModelProto:
    return made_of(
        [helper.make_node("Transpose", ["w0"], ["w"], perm=[1, 0]), gemm()], w0=np.ascontiguousarray(WEIGHT.T)
    )


@whereabouts
def through_reshape() -> ModelProto:
    return made_of([helper.make_node("Reshape", ["w0", "s"], ["w"]), gemm()], w0=WEIGHT.ravel(), s=np.array([6, 4]))


@whereabouts
def through_cast() -> ModelProto:
    return made_of([helper.make_node("Cast", ["w0"], ["w"], to=FLOAT), gemm()], w0=WEIGHT.astype(np.float16))


@whereabouts
def through_squeeze_and_unsqueeze() -> ModelProto:
    nodes = [
        helper.make_node("Unsqueeze", ["w0", "one"], ["w1"]),
        helper.make_node("Squeeze", ["w1", "one"], ["w"]),
        gemm(),
    ]
    return made_of(nodes, w0=WEIGHT, one=np.array([1]))


@whereabouts
def through_attributes_of_old_opsets() -> ModelProto:
    nodes = [
        helper.make_node("Unsqueeze", ["w0"], ["w1"], axes=[0]),
        helper.make_node("Squeeze", ["w1"], ["w"], axes=[0]),
        gemm(),
    ]
    return made_of(nodes, opset=11, w0=WEIGHT)


@whereabouts
def through_everything() -> ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["w0"], value=numpy_helper.from_array(WEIGHT.T.astype(np.float64))),
        helper.make_node("Cast", ["w0"], ["w1"], to=FLOAT),
        helper.make_node("Identity", ["w1"], ["w2"]),
        helper.make_node("Transpose", ["w2"], ["w3"]),
        helper.make_node("Flatten", ["w3"], ["w"], axis=1),
        gemm(),
    ]
    return made_of(nodes)


@whereabouts
def through_numbers_in_attributes() -> ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["flat"], value_floats=WEIGHT.ravel().tolist()),
        helper.make_node("Constant", [], ["s"], value_ints=[6, 4]),
        helper.make_node("Reshape", ["flat", "s"], ["w"]),
        gemm(),
    ]
    return made_of(nodes)


@whereabouts
def normalised_as_by_weight_norm() -> ModelProto:
    nodes = [
        helper.make_node("ReduceL2", ["v", "one"], ["norm"], keepdims=1),
        helper.make_node("Div", ["g", "norm"], ["scale"]),
        helper.make_node("Mul", ["scale", "v"], ["w"]),
        gemm(),
    ]
    return made_of(nodes, v=WEIGHT, g=np.arange(1.0, 7, dtype=np.float32)[:, None], one=np.array([1]))


def standardised(opset: int = 18) -> ModelProto:
    statistics = {name: np.full(6, value, np.float32) for name, value in zip("sbmv", (2, 1, 0.5, 3), strict=True)}
    nodes = [
        helper.make_node("BatchNormalization", ["w0", "s", "b", "m", "v"], ["w1"]),
        helper.make_node("Reshape", ["w1", "shape"], ["w"]),
        gemm(),
    ]
    return made_of(nodes, opset, w0=WEIGHT[None], shape=np.array([6, 4]), **statistics)


@whereabouts
def standardised_as_by_a_batch_norm() -> ModelProto:
    return standardised()


@whereabouts
def standardised_in_opset_11() -> ModelProto:
    return standardised(11)


@whereabouts
def standardised_in_opset_13() -> ModelProto:
    return standardised(13)


@whereabouts
def chosen_by_a_mask() -> ModelProto:
    mask = RNG.random(WEIGHT.shape) < 0.7
    nodes = [helper.make_node("Where", ["mask", "w0", "none"], ["w"]), gemm()]
    return made_of(nodes, w0=WEIGHT, mask=mask, none=np.float32(0))


@whereabouts
def masked() -> ModelProto:
    mask = (RNG.random(WEIGHT.shape) < 0.7).astype(np.float32)
    return made_of([helper.make_node("Mul", ["w0", "mask"], ["w"]), gemm()], w0=WEIGHT, mask=mask)


@whereabouts
def joined() -> ModelProto:
    nodes = [helper.make_node("Concat", ["a", "b"], ["w"], axis=0), gemm()]
    return made_of(nodes, a=np.ascontiguousarray(WEIGHT[:2]), b=np.ascontiguousarray(WEIGHT[2:]))


@whereabouts
def through_a_computed_shape() -> ModelProto:
    nodes = [
        helper.make_node("Identity", ["six"], ["rows"]),
        helper.make_node("Concat", ["rows", "four"], ["s"], axis=0),
        helper.make_node("Reshape", ["w0", "s"], ["w"]),
        gemm(),
    ]
    return made_of(nodes, w0=WEIGHT.ravel(), six=np.array([6]), four=np.array([4]))


@whereabouts
def old_input_list() -> ModelProto:
    made = initializer()
    made.ir_version = 3
    made.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [6, 4]))
    return made


def branch(nodes: list[onnx.NodeProto], tensors: list[TensorProto], output: str = "y_in") -> GraphProto:
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, FLOAT, [3, 6])], tensors)


def chosen(then: GraphProto, other: GraphProto, tensors: dict[str, Array]) -> ModelProto:
    nodes = [
        helper.make_node("Constant", [], ["flag"], value=numpy_helper.from_array(np.array(True))),
        helper.make_node("If", ["flag"], ["y"], "if", then_branch=then, else_branch=other),
    ]
    return made_of(nodes, **tensors)


def inner(weight: str = "w", output: str = "y_in") -> onnx.NodeProto:
    return helper.make_node("Gemm", ["x", weight], [output], "gemm", transB=1)


@whereabouts
def in_a_body() -> ModelProto:
    there = [numpy_helper.from_array(WEIGHT, "w")]
    other = [numpy_helper.from_array(2 * WEIGHT, "w")]
    return chosen(branch([inner()], there), branch([inner()], other), {})


@whereabouts
def in_an_outer_scope() -> ModelProto:
    return chosen(branch([inner()], []), branch([inner()], []), {"w": WEIGHT})


@whereabouts
def in_a_loop() -> ModelProto:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(WEIGHT[:4])),
            helper.make_node("Gemm", ["state", "w"], ["state_out"], "gemm"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [3, 4]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", FLOAT, [3, 4]),
        ],
    )
    nodes = [helper.make_node("Loop", ["trips", "", "x"], ["y"], "loop", body=body)]
    return made_of(nodes, trips=np.array(3))


def dead(made: ModelProto) -> set[str]:
    """Values of the main graph that nothing uses."""
    used = {name for node in made.graph.node for name in node.input} | {o.name for o in made.graph.output}
    for node in made.graph.node:
        for attribute in node.attribute:
            used |= {name for inside in attribute.g.node for name in inside.input}
    there = {t.name for t in made.graph.initializer} | {o for node in made.graph.node for o in node.output}
    return there - used


@pytest.mark.parametrize("name", WHEREABOUTS)
def test_full_rank_equals_the_original_wherever_the_weight_lives(name: str) -> None:
    made = WHEREABOUTS[name]()
    labels = [f.label for f in look(made)[1]]
    assert set(reasons(made).values()) == {""}
    result = factorised(made, dict.fromkeys(labels, ("svd", None)))
    onnx.checker.check_model(result, full_check=True)
    assert np.allclose(run(made, x=X)[0], run(result, x=X)[0], atol=1e-5)
    assert not dead(result)
    assert "Gemm" in str(result.graph.node)


def test_a_shared_weight_is_factorised_once() -> None:
    made = made_of([gemm(), helper.make_node("Gemm", ["y", "v"], ["z"], "back"), gemm_again()], w=WEIGHT, v=WEIGHT)
    made.graph.output.append(helper.make_tensor_value_info("y2", FLOAT, [3, 6]))
    result = factorised(made, {"gemm": ("svd", (4,)), "again": ("svd", (4,))})
    assert len(result.graph.initializer) == 3
    for a, b in zip(run(made, x=X), run(result, x=X), strict=True):
        assert np.allclose(a, b, atol=1e-5)


def gemm_again() -> onnx.NodeProto:
    return helper.make_node("Gemm", ["z", "w"], ["y2"], "again", transB=1)


def test_nodes_that_share_a_weight_are_treated_alike() -> None:
    big = RNG.standard_normal((64, 2)) @ RNG.standard_normal((2, 64))
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "one", transB=1),
        helper.make_node("Gemm", ["a", "w"], ["y"], "two", transB=1),
    ]
    made = model(nodes, {"w": big.astype(np.float32)}, {"x": [3, 64]}, {"y": 2})
    result = compress(made, ranks="2", benchmark=False)
    assert [n.ranks for n in result.report.nodes] == [(2,), (2,)]
    assert [n.params.after for n in result.report.nodes] == [256, 0]
    assert len(result.model.graph.initializer) == 2
    x = RNG.standard_normal((3, 64)).astype(np.float32)
    assert relative(run(made, x=x)[0], run(result.model, x=x)[0]) < 1e-4
    kept = compress(made, ranks="2", benchmark=False, exclude=["two"])
    reason = "its weight is also that of two, left out by --exclude"
    assert {(n.status, n.reason) for n in kept.report.nodes} == {("kept", reason)}


def test_a_weight_that_several_nodes_arrange_alike_is_shared() -> None:
    """As exporters write layers that are the same: the weight itself, or by another name, and turned for each."""
    big = (RNG.standard_normal((48, 2)) @ RNG.standard_normal((2, 48))).astype(np.float32)

    def made(second: list[int]) -> onnx.ModelProto:
        nodes = [
            helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
            helper.make_node("Identity", ["w"], ["same"]),
            helper.make_node("Transpose", ["same"], ["u"], perm=second),
            helper.make_node("MatMul", ["x", "t"], ["a"], "one"),
            helper.make_node("MatMul", ["a", "u"], ["y"], "two"),
        ]
        return model(nodes, {"w": big}, {"x": [3, 48]}, {"y": 2})

    result = compress(made([1, 0]), ranks="2", benchmark=False)
    assert [(n.ranks, n.params.after) for n in result.report.nodes] == [((2,), 192), ((2,), 0)]
    assert len(result.model.graph.initializer) == 2
    assert [node.op_type for node in result.model.graph.node] == ["MatMul"] * 4
    x = RNG.standard_normal((3, 48)).astype(np.float32)
    assert relative(run(made([1, 0]), x=x)[0], run(result.model, x=x)[0]) < 1e-4
    assert all("several places" in reason for reason in reasons(made([0, 1])).values())


def test_what_arranged_a_shared_weight_goes_with_it() -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"]),
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("Transpose", ["w"], ["u"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "u"], ["y"], "two"),
    ]
    low = np.clip(np.round(9 * RNG.standard_normal((48, 2)) @ RNG.standard_normal((2, 48))), -128, 127).astype(np.int8)
    made = model(nodes, {"q": low, "scale": np.float32(0.1), "zero": np.int8(0)}, {"x": [3, 48]}, {"y": 2})
    result = compress(made, ranks="2", dequantize=True, benchmark=False).model
    assert [node.op_type for node in result.graph.node] == ["MatMul"] * 4
    assert {name for node in result.graph.node for name in node.input} >= {t.name for t in result.graph.initializer}


def test_weights_stored_as_integers_are_factorised_when_asked() -> None:
    nodes = [helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"]), gemm()]
    quantized = RNG.integers(-100, 100, (6, 4)).astype(np.int8)
    made = made_of(nodes, q=quantized, scale=np.float32(0.01), zero=np.int8(3))
    assert "--dequantize" in reasons(made)["gemm"]
    result = factorised(made, {"gemm": ("svd", None)}, dequantize=True)
    assert [node.op_type for node in result.graph.node] == ["Gemm", "Gemm"]
    assert {t.data_type for t in result.graph.initializer} == {FLOAT}
    assert np.allclose(run(made, x=X)[0], run(result, x=X)[0], atol=1e-5)


def test_weights_rounded_as_if_they_were_integers_are_factorised_when_asked() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["w0", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["w"]),
        gemm(),
    ]
    made = made_of(nodes, w0=WEIGHT, scale=np.float32(0.02), zero=np.int8(0))
    assert "--dequantize" in reasons(made)["gemm"]
    result = factorised(made, {"gemm": ("svd", None)}, dequantize=True)
    assert [node.op_type for node in result.graph.node] == ["Gemm", "Gemm"]
    assert np.allclose(run(made, x=X)[0], run(result, x=X)[0], atol=1e-5)


def test_what_callers_may_give_is_not_computed_from() -> None:
    made = masked()
    made.graph.input.append(helper.make_tensor_value_info("mask", FLOAT, [6, 4]))
    assert "--freeze-initializer-inputs" in reasons(made)["gemm"]
    assert set(reasons(made, freeze_initializer_inputs=True).values()) == {""}


def test_what_is_made_by_many_steps_is_left_alone() -> None:
    doubled = [helper.make_node("Add", [f"w{i}", f"w{i}"], [f"w{i + 1}"]) for i in range(60)]
    tripled = [helper.make_node("Add", [f"w{i}", f"v{i}"], [f"w{i + 1}"]) for i in range(20)]
    tripled[1::2] = [helper.make_node("Add", [f"w{i}", f"w{i - 1}"], [f"w{i + 1}"]) for i in range(1, 20, 2)]
    long = [helper.make_node("Neg", [f"w{i}"], [f"w{i + 1}"]) for i in range(2000)]
    long.append(helper.make_node("Gemm", ["y", "w90"], ["z"], "early"))
    assert set(reasons(made_of([*doubled, gemm("w60")], w0=WEIGHT)).values()) == {""}
    grown = [*tripled, gemm("w20")]
    assert "computed" in reasons(made_of(grown, w0=WEIGHT, **{f"v{i}": WEIGHT for i in range(0, 20, 2)}))["gemm"]
    late = reasons(made_of([*long, gemm("w2000")], w0=WEIGHT))
    assert "computed" in late["gemm"]
    assert "computed" not in late["early"]


def test_a_mask_of_several_weights_is_none_of_them() -> None:
    nodes = [helper.make_node("Mul", ["mask", name], [f"{name}m"]) for name in "ab"]
    nodes.append(helper.make_node("Gemm", ["x", "am"], ["h"], "one", transB=1))
    nodes.append(helper.make_node("Gemm", ["x", "bm"], ["y"], "two", transB=1))
    made = made_of(nodes, a=WEIGHT, b=2 * WEIGHT, mask=np.tril(np.ones_like(WEIGHT)))
    assert [(f.reading.params, reasons(made)[f.label]) for f in look(made)[1]] == [(24, ""), (24, "")]


def test_parts_of_a_weight_count_each() -> None:
    nodes = []
    for i in range(3):
        nodes.append(helper.make_node("Slice", ["w", f"from{i}", f"to{i}", "axis"], [f"part{i}"]))
        nodes.append(helper.make_node("Gemm", ["x", f"part{i}"], [f"y{i}" if i else "y"], f"node{i}", transB=1))
    bounds = {f"from{i}": np.array([2 * i]) for i in range(3)} | {f"to{i}": np.array([2 * i + 2]) for i in range(3)}
    made = made_of(nodes, w=WEIGHT, axis=np.array([0]), **bounds)
    assert [f.reading.params for f in look(made)[1]] == [8, 8, 8]


def projections(split: bool) -> ModelProto:
    """Two layers by parts of a weight, as exporters write attention: cut by the width of the input."""
    if split:
        parts = [helper.make_node("Split", ["w"], ["part0", "part1"], axis=0, num_outputs=2)]
    else:
        parts = [
            helper.make_node("Shape", ["x"], ["size"]),
            helper.make_node("Gather", ["size", "last"], ["width"]),
            helper.make_node("Add", ["width", "width"], ["end"]),
            helper.make_node("Slice", ["w", "zero", "width", "zero"], ["part0"]),
            helper.make_node("Slice", ["w", "width", "end", "zero"], ["part1"]),
        ]
    gemms = [helper.make_node("Gemm", ["x", f"part{i}"], [f"h{i}"], f"node{i}", transB=1) for i in range(2)]
    nodes = [*parts, *gemms, helper.make_node("Add", ["h0", "h1"], ["y"])]
    tensors = {"w": RNG.standard_normal((48, 24)).astype(np.float32)}
    if not split:
        tensors |= {"zero": np.array([0]), "last": np.array([1])}
    return model(nodes, tensors, {"x": ["n", 24]}, {"y": 2})


@pytest.mark.parametrize("split", [False, True])
def test_parts_of_a_weight_are_factorised_each(split: bool) -> None:
    made = projections(split)
    assert reasons(made) == {"node0": "", "node1": ""}
    x = RNG.standard_normal((5, 24)).astype(np.float32)
    for labels in (["node0"], ["node1"], ["node0", "node1"]):
        result = factorised(made, dict.fromkeys(labels, ("svd", None)))
        onnx.checker.check_model(result, full_check=True)
        assert np.allclose(run(made, x=x)[0], run(result, x=x)[0], atol=1e-4)
        assert ("w" in {t.name for t in result.graph.initializer}) == (len(labels) == 1)
        assert [v.name for v in result.graph.input] == ["x"]
        assert dead(result) <= {"part0", "part1"}  # a Split gives both
    smaller = compress(made, ranks="auto", budget="params:0.7", benchmark=False)
    assert smaller.report.totals.params.after <= 0.7 * smaller.report.totals.params.before


def test_what_is_there_for_its_shape_stays() -> None:
    """An input, or the value of another layer, by whose size a weight is cut."""
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["z"], "first"),
        helper.make_node("Shape", ["z"], ["size"]),
        helper.make_node("Gather", ["size", "last"], ["width"]),
        helper.make_node("Slice", ["w", "zero", "width", "zero"], ["part"]),
        helper.make_node("Gemm", ["x", "part"], ["y"], "second", transB=1),
    ]
    numbers = {"zero": np.array([0]), "last": np.array([1])}
    weights = {"v": RNG.standard_normal((24, 30)), "w": RNG.standard_normal((48, 24)), "given": np.ones((2, 30))}
    tensors = {name: weight.astype(np.float32) for name, weight in weights.items()}
    made = model(nodes, {**numbers, **tensors}, {"x": ["n", 24]}, {"y": 2})
    result = factorised(made, {"first": ("svd", (3,)), "second": ("svd", None)})
    assert [node.name for node in result.graph.node if node.name.startswith("first")] == ["first/svd/0", "first"]
    made.graph.node[1].input[0] = "given"
    made.graph.input.append(helper.make_tensor_value_info("given", FLOAT, [2, 30]))
    result = factorised(made, {"second": ("svd", None)})
    assert [value.name for value in result.graph.input] == ["x", "given"]
    x = RNG.standard_normal((3, 24)).astype(np.float32)
    assert np.allclose(run(made, x=x)[0], run(result, x=x)[0], atol=1e-4)


@pytest.mark.parametrize("by", ["Mul", "Gather"])
def test_what_stands_for_weights_is_stored_as_integers(by: str) -> None:
    codes = RNG.integers(0, 7, (6, 4))
    if by == "Mul":
        nodes = [
            helper.make_node("Cast", ["q"], ["c"], to=FLOAT),
            helper.make_node("Mul", ["c", "scale"], ["w"]),
            gemm(),
        ]
        made = made_of(nodes, q=codes.astype(np.int8), scale=np.float32(0.1))
    else:
        made = made_of([helper.make_node("Gather", ["book", "q"], ["w"]), gemm()], q=codes, book=WEIGHT.ravel()[:7])
    assert "--dequantize" in reasons(made)["gemm"]
    result = factorised(made, {"gemm": ("svd", None)}, dequantize=True)
    assert np.allclose(run(made, x=X)[0], run(result, x=X)[0], atol=1e-5)


@pytest.mark.parametrize("holder", ["bias", "LSTM"])
def test_what_cannot_be_computed_here_is_no_reason_to_leave_others(holder: str) -> None:
    """The evaluator knows no negative pads, by which onnxruntime cuts."""
    pads = [0, 0, -1, 0] if holder == "bias" else [0, 0, -1, 0, 0, 0]
    cut = helper.make_node("Pad", ["long", "pads"], ["short"])
    if holder == "bias":
        nodes = [cut, helper.make_node("Gemm", ["x", "w", "short"], ["y"], "gemm", transB=1)]
        tensors = {"long": np.ones((2, 6), np.float32)}
        pads = [-1, 0, 0, 0]
    else:
        nodes = [cut, helper.make_node("LSTM", ["z", "short", "r"], ["h"], "lstm", hidden_size=2), gemm()]
        tensors = {"long": np.ones((1, 8, 4), np.float32), "r": np.ones((1, 8, 2), np.float32)}
    made = made_of(nodes, w=WEIGHT, pads=np.array(pads), **tensors)
    assert reasons(made)["gemm"] == ""


def test_overridable_weights_are_factorised_when_asked() -> None:
    made = initializer()
    made.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [6, 4]))
    assert "--freeze-initializer-inputs" in reasons(made)["gemm"]
    result = factorised(made, {"gemm": ("svd", None)}, freeze_initializer_inputs=True)
    assert [v.name for v in result.graph.input] == ["x"]
    onnx.checker.check_model(result, full_check=True)


def test_functions_are_inlined_when_asked() -> None:
    function = helper.make_function(
        "mine",
        "Layer",
        ["a", "b"],
        ["c"],
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 18)],
    )
    weight = (RNG.standard_normal((32, 2)) @ RNG.standard_normal((2, 32))).astype(np.float32)
    node = helper.make_node("Layer", ["x", "w"], ["y"], "call", domain="mine")
    made = model([node], {"w": weight}, {"x": [3, 32]}, {"y": 2})
    made.opset_import.add(domain="mine", version=1)
    made.functions.append(function)
    assert compress(made, ranks="2", benchmark=False).model is made
    assert compress(made, ranks="full", benchmark=False, inline_functions=True).model is made
    result = compress(made, ranks="2", benchmark=False, inline_functions=True)
    assert [n.status for n in result.report.nodes] == ["factorized"]
    assert not result.model.functions
    x = RNG.standard_normal((3, 32)).astype(np.float32)
    assert relative(run(made, x=x)[0], run(result.model, x=x)[0]) < 1e-4


def test_its_own_chains_are_left_alone_unless_wanted() -> None:
    made = initializer()
    once = factorised(made, {"gemm": ("svd", None)})
    assert all("--refactorize" in reason for reason in reasons(once).values())
    assert set(reasons(once, refactorize=True).values()) == {""}


def test_a_cycle_ends() -> None:
    nodes = [helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"]), gemm("b")]
    assert "computed" in reasons(made_of(nodes))["gemm"]


def test_weights_are_read_from_beside_the_model(tmp_path: Path) -> None:
    onnx.save_model(through_transpose(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    made = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    [found] = look(made, tmp_path)[1]
    assert np.array_equal(found.site.read(), WEIGHT)


def test_nodes_that_share_a_weight_keep_their_own_windows() -> None:
    weight = low_rank(RNG, 3, 32, 32, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b1"], ["a"], "a", pads=[1] * 4),
        helper.make_node("Conv", ["x", "w", "b2"], ["y"], "b", pads=[2] * 4, dilations=[2, 2], strides=[2, 2]),
    ]
    biases = {name: RNG.standard_normal(32).astype(np.float32) for name in ("b1", "b2")}
    made = model(nodes, {"w": weight, **biases}, {"x": [1, 32, 16, 16]}, {"a": 4, "y": 4})
    result = compress(made, ranks="energy:0.999", benchmark=False)
    assert [n.status for n in result.report.nodes] == ["factorized"] * 2
    assert [n.bias_params.before for n in result.report.nodes] == [32, 32]
    x = RNG.standard_normal((1, 32, 16, 16)).astype(np.float32)
    for a, b in zip(run(made, x=x), run(result.model, x=x), strict=True):
        assert relative(a, b) < 0.1


def test_a_shared_bias_is_counted_once() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["a"], "one", transB=1),
        helper.make_node("Gemm", ["x", "v", "b"], ["y"], "two", transB=1),
    ]
    made = model(nodes, {"w": WEIGHT, "v": WEIGHT, "b": WEIGHT[:, 0]}, {"x": [3, 4]}, {"a": 2, "y": 2})
    assert [(f.reading.params, f.reading.bias_params) for f in look(made)[1]] == [(24, 6), (24, 0)]


def test_names_in_sibling_branches_are_no_names_of_each_other() -> None:
    stack = np.stack([WEIGHT.T, 2 * WEIGHT.T])
    unknown = helper.make_node("QuickGelu", ["v"], ["h"], domain="com.microsoft", alpha=1.7)
    then = helper.make_graph(
        [unknown, helper.make_node("MatMul", ["h", "w"], ["o"], "batched")],
        "then",
        [],
        [helper.make_tensor_value_info("o", FLOAT, None)],
        [numpy_helper.from_array(stack, "w")],
    )
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["o"], "plain")],
        "else",
        [],
        [helper.make_tensor_value_info("o", FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(WEIGHT.T), "w")],
    )
    nodes = [helper.make_node("If", ["c"], ["y"], "if", then_branch=then, else_branch=other)]
    made = model(nodes, {"c": np.array(True)}, {"x": [3, 4], "v": [4]}, {"y": 2})
    made.opset_import.add(domain="com.microsoft", version=1)
    assert "not known to be a matrix" in reasons(made)["if/then_branch/batched"]
    once = factorised(made, {"if/else_branch/plain": ("svd", None)})
    assert "--refactorize" in reasons(once)["if/else_branch/plain"]
    assert "not known to be a matrix" in reasons(once)["if/then_branch/batched"]
