"""Factors fitted to data, from end to end."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tucker import compress
from onnx_tucker.errors import PromiseError, TuckerError
from onnx_tucker.factor import METHODS
from onnx_tucker.fitting import sequential
from onnx_tucker.fitting.factorise import factorise
from onnx_tucker.job import Job, silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate, Choice, Plan
from tests.helpers import Array, conv_model, low_rank, model, relative, run

RNG = np.random.default_rng(0)


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def correlated(*shape: int) -> Array:
    """Samples whose channels depend on each other, as activations do."""
    mixing = noise(shape[1], shape[1]) @ np.diag(np.logspace(0, -2, shape[1])).astype(np.float32)
    return np.ascontiguousarray(np.moveaxis(np.moveaxis(noise(*shape), 1, -1) @ mixing, -1, 1))


def one(op: str, weight: Array, x: Array, out: int, bias: bool = True, **attributes: Any) -> onnx.ModelProto:
    tensors = {"w": weight} | ({"b": noise(out)} if bias else {})
    node = helper.make_node(op, ["x", *tensors], ["y"], "node", **attributes)
    made = model([node], tensors, {"x": list(x.shape)}, {"y": x.ndim})
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return made


def slim(made: onnx.ModelProto, data: Array | None, ranks: str = "4", **options: Any) -> onnx.ModelProto:
    given = {} if data is None else {"data": {"x": data}}
    return compress(made, ranks=ranks, benchmark=False, **given, **options).model


def two_convolutions() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["x", "a", "p"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b", "q"], ["y"], "second", pads=[1] * 4),
    ]
    tensors = {"a": noise(16, 10, 3, 3), "p": noise(16), "b": noise(16, 16, 3, 3), "q": noise(16)}
    return model(nodes, tensors, {"x": ["n", 10, 8, 8]}, {"y": 4})


CASES = {
    "conv": (one("Conv", noise(12, 10, 3, 3), noise(64, 10, 8, 8), 12, pads=[1] * 4), correlated(64, 10, 8, 8)),
    "no bias": (one("Conv", noise(12, 10, 3), noise(64, 10, 9), 12, bias=False), correlated(64, 10, 9)),
    "strided": (one("Conv", noise(12, 10, 3, 3), noise(64, 10, 8, 8), 12, strides=[2, 1], auto_pad="SAME_LOWER"),
                correlated(64, 10, 8, 8)),
    "groups": (one("Conv", noise(24, 10, 3, 3), noise(64, 20, 8, 8), 24, group=2), correlated(64, 20, 8, 8)),
    "transposed": (one("ConvTranspose", noise(10, 12, 3, 3), noise(64, 10, 8, 8), 12, strides=[2, 2]),
                   correlated(64, 10, 8, 8)),
    "gemm": (one("Gemm", noise(12, 10), noise(160, 10), 12, transB=1), correlated(160, 10)),
    "matmul": (one("MatMul", noise(10, 12), noise(64, 5, 10), 12, bias=False),
               np.swapaxes(correlated(64, 10, 5), 1, 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_closer_with_data_than_without(name: str) -> None:
    made, x = CASES[name]
    held_out = x[:16]
    errors = [relative(run(made, x=held_out)[0], run(slim(made, d), x=held_out)[0]) for d in (None, x[16:])]
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize("seed", range(3))
def test_later_nodes_make_up_for_earlier_ones(seed: int) -> None:
    """The second node is fitted to what the original gives, from what the first one has become."""
    made = two_convolutions()
    x = correlated(96, 10, 8, 8)
    together = slim(made, x[16:], seed=seed)
    apart = slim(made, x[16:], include="first", seed=seed)
    blind = slim(apart, None, include="second")
    exact = run(made, x=x[:16])[0]
    assert relative(exact, run(together, x=x[:16])[0]) < relative(exact, run(blind, x=x[:16])[0])


@pytest.mark.parametrize("seed", range(3))
def test_of_few_samples_the_bias_takes_the_mean_and_the_ranks_what_varies(seed: int) -> None:
    """All outputs are alike in a direction that hardly varies: a matrix of one rank less does without it."""
    alike = np.ones((4, 1)) / 2
    rng = np.random.default_rng(seed)
    others = np.linalg.svd(alike)[0][:, 1:] @ rng.standard_normal((3, 31))
    weight = others - others.mean(1, keepdims=True) + 0.3 * alike
    made = one("Gemm", weight.astype(np.float32), noise(64, 31), 4, transB=1)
    x = (3 + rng.standard_normal((264, 31))).astype(np.float32)
    exact, fitted = run(made, x=x[8:])[0], run(slim(made, x[:8], "3"), x=x[8:])[0]
    assert relative(exact - exact.mean(0), fitted - exact.mean(0)) < 0.35


def test_the_new_bias_takes_the_place_of_the_old() -> None:
    made, x = CASES["conv"]
    names = {tensor.name for tensor in slim(made, x).graph.initializer}
    assert "b" not in names
    assert sum(name.endswith("/bias") for name in names) == 1


def test_a_bias_that_others_use_stays() -> None:
    made, x = CASES["conv"]
    shared = onnx.ModelProto()
    shared.CopyFrom(made)
    shared.graph.node.append(helper.make_node("Identity", ["b"], ["z"]))
    shared.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    assert np.array_equal(run(slim(shared, x), x=x)[1], run(shared, x=x)[1])


@pytest.mark.parametrize("kind", ["zero", "constant", "duplicated", "one", "partly nan", "large", "too large"])
def test_poor_data_does_no_harm(kind: str) -> None:
    made, x = CASES["conv"]
    poor = {
        "zero": 0 * x,
        "constant": 0 * x + 1,
        "duplicated": x[[3] * 8],
        "one": x[:1],
        "large": x * np.float32(1e20),
        "too large": np.where(np.arange(64)[:, None, None, None] == 5, 1e300, x.astype(np.float64)),
        "partly nan": np.where(np.arange(64)[:, None, None, None] == 5, np.float32(np.nan), x),
    }[kind]
    result = slim(made, poor)
    outputs = run(result, x=x)[0]
    assert np.isfinite(outputs).all()
    blind = relative(run(made, x=x)[0], run(slim(made, None), x=x)[0])
    assert relative(run(made, x=x)[0], outputs) < 1.2 * blind


def test_samples_that_are_not_finite_are_told_of_wherever_they_are(caplog: pytest.LogCaptureFixture) -> None:
    made, x = CASES["conv"]
    spoilt = x.copy()
    for i in range(9):  # one in nine is kept for checks
        spoilt[i, 0] = np.inf
        caplog.clear()
        slim(made, spoilt)
        told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        [message] = (text for text in told if "finite" in text)  # and not of each node
        assert message.startswith(f"{i + 1} of 64 samples of the data have NaN or infinite numbers")


def test_the_same_seed_gives_the_same_model() -> None:
    made, x = CASES["conv"]
    assert slim(made, x, seed=1) == slim(made, x, seed=1)


def test_what_a_run_has_used_is_freed_at_once() -> None:
    """Rows and values of large models fill the memory if they wait for what finds objects that hold each other."""
    x = correlated(100, 10, 8, 8)
    gc.collect()
    gc.disable()
    try:
        compress(two_convolutions(), ranks="auto", budget="flops:0.5", benchmark=False, data={"x": x})
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = {type(one).__qualname__ for one in gc.garbage if type(one).__module__.startswith("onnx_tucker")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not left


def test_lowered_forms_take_the_bias_too() -> None:
    made = conv_model(noise(16, 8, 3, 3, 3), size=[6, 8, 8], bias=True)
    x = correlated(32, 8, 6, 8, 8)
    result = compress(made, ranks="4", data={"x": x}, keep_slower=True)
    assert relative(run(made, x=x)[0], run(result.model, x=x)[0]) < 1


class Reader:
    """As onnxruntime's CalibrationDataReader."""

    def __init__(self, batches: list[Any]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> Any:
        return next(self._batches, None)


def test_data_may_come_in_batches() -> None:
    made, x = CASES["conv"]
    batches = [{"x": part} for part in np.split(x, 8)]
    whole = slim(made, x)
    for data in (batches, iter(batches), Reader(batches), Reader([batch["x"] for batch in batches])):
        assert compress(made, ranks="4", benchmark=False, data=data).model == whole


@pytest.mark.parametrize("op", ["Conv", "MatMul"])
def test_what_is_added_may_be_the_same_for_all_samples(op: str, caplog: pytest.LogCaptureFixture) -> None:
    x = correlated(70, 10, 6)
    nodes = [helper.make_node("Tanh", ["p"], ["t"]), helper.make_node("Add", ["c", "t"], ["y"])]
    shape = (12, 10, 3) if op == "Conv" else (6, 12)
    nodes.insert(0, helper.make_node(op, ["x", "w"], ["c"], "node"))
    added = noise(1, 12, 4) if op == "Conv" else noise(1, 10, 12)
    made = model(nodes, {"w": noise(*shape), "p": added}, {"x": ["n", 10, 6]}, {"y": 3})
    with caplog.at_level("INFO", "onnx_tucker"):
        slim(made, x, "2")
    assert "node: fitted to" in caplog.text
    assert "not fitted" not in caplog.text


def test_a_part_that_the_model_rejects_is_told() -> None:
    made = one("Conv", noise(12, 10, 3), noise(64, 10, 9), 12)
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "length"
    made.graph.node.append(helper.make_node("Reshape", ["y", "shape"], ["z"]))
    made.graph.initializer.append(numpy_helper.from_array(np.array([-1, 84]), "shape"))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", 1, [None, None]))
    parts = [{"x": noise(1, 10, 9 + (i == 1))} for i in range(6)]
    with pytest.raises(TuckerError, match="does not run on the data"):
        compress(made, ranks="4", benchmark=False, data=parts)


def test_samples_may_be_of_different_sizes() -> None:
    made = one("Conv", noise(12, 10, 3), noise(64, 10, 9), 12)
    made.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "length"
    parts = [{"x": correlated(1, 10, 9 + i % 5)} for i in range(80)]
    x = np.concatenate([part["x"] for part in parts if part["x"].shape[2] == 9])
    errors = []
    for data in ({}, {"data": parts}):
        slim_ = compress(made, ranks="4", benchmark=False, **data).model
        errors.append(relative(run(made, x=x)[0], run(slim_, x=x)[0]))
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (3, "neither paths"),
        ([{"x": np.zeros((1, 10, 8, 8))}, "x.npz"], "neither paths"),
        ([{"x": np.zeros((1, 10, 8, 8))}, {"z": np.zeros(1)}], "has the keys 'z'"),
        ([{"x": np.zeros((1, 10, 8, 8))}, {"x": np.zeros((1, 10, 8, 9))}], "has the shape"),
    ],
)
def test_what_is_no_data(data: Any, words: str) -> None:
    with pytest.raises(TuckerError, match=words):
        compress(CASES["conv"][0], ranks="4", benchmark=False, data=data)


def test_without_data_it_is_said_that_accuracy_is_unguarded(caplog: pytest.LogCaptureFixture) -> None:
    made, x = CASES["conv"]
    slim(made, x)
    assert "accuracy" not in caplog.text
    slim(made, None)
    assert caplog.text.count("nothing guards the accuracy") == 1


@pytest.mark.parametrize(("samples", "said"), [(4, 1), (5, 0)])
def test_it_is_said_that_errors_are_those_of_what_is_fitted_to(
    samples: int, said: int, caplog: pytest.LogCaptureFixture
) -> None:
    made, x = CASES["conv"]
    slim(made, x[:samples])
    assert caplog.text.count("none is kept for checks") == said


def test_samples_that_say_nothing_are_not_fitted_to(caplog: pytest.LogCaptureFixture) -> None:
    made, x = CASES["conv"]
    result = slim(made, np.zeros_like(x))
    assert "samples are the same as others" in caplog.text
    assert "is a single value throughout" in caplog.text
    assert result == slim(made, None)


def test_batches_that_are_too_few_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": noise(16, 16)}, {"x": [3, 16]}, {"y": 2})
    compress(made, ranks="4", benchmark=False, data={"x": noise(9, 16)})
    assert "Of 3 batches of 3 samples none is kept for checks" in caplog.text


def test_a_state_of_a_fixed_size_is_no_batch(caplog: pytest.LogCaptureFixture) -> None:
    """Its batch lies along another axis, so that all is run as a single sample."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceSum", ["state", "first"], ["s"], keepdims=0),
        helper.make_node("Add", ["h", "s"], ["y"]),
    ]
    tensors = {"w": noise(16, 16), "first": np.zeros(1, np.int64)}
    made = model(nodes, tensors, {"x": ["n", 16], "state": [2, "n", 16]}, {"y": 2})
    compress(made, ranks="4", benchmark=False, data={"x": noise(9, 16), "state": noise(2, 9, 16)})
    assert "Of a single sample none is kept for checks" in caplog.text


@pytest.mark.parametrize("name", CASES)
def test_full_rank_with_data_changes_nothing(name: str) -> None:
    made, x = CASES[name]
    for ranks in ("full", "energy:1.0", "1000"):
        assert relative(run(made, x=x)[0], run(slim(made, x, ranks), x=x)[0]) < 1e-4


def test_a_node_that_stays_makes_up_for_those_before_it() -> None:
    made = two_convolutions()
    x = correlated(96, 10, 8, 8)
    exact = run(made, x=x[:16])[0]
    with_data = compress(made, ranks="4", op_types=["Conv"], benchmark=False, data={"x": x[16:]}, include="first")
    assert [node.reason for node in with_data.report.nodes] == ["", "left out by --include"]
    kept = compress(made, ranks="4", benchmark=False, data={"x": x[16:]}, plan=_only_first(made, x))
    assert "weights refitted" in kept.report.nodes[1].reason
    assert kept.report.nodes[1].status == "kept"
    errors = [relative(exact, run(result.model, x=x[:16])[0]) for result in (kept, with_data)]
    assert errors[0] < 0.9 * errors[1]


def _only_first(made: onnx.ModelProto, x: Array) -> Plan:
    """A plan that factorises the first node and keeps the second, which nobody asked to leave out."""
    both = compress(made, ranks="4", benchmark=False, dry_run=True).plan.choices
    return Plan((both[0], Choice("second", "Conv", both[1].shape, "kept", "for a test")))


def test_what_is_added_to_a_node_is_made_up_for() -> None:
    """Two branches of a sum: the second one is fitted to what the first one has lost too."""
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["f"], "first", pads=[1] * 4),
        helper.make_node("Conv", ["x", "b"], ["g"], "second", pads=[1] * 4),
        helper.make_node("Add", ["f", "g"], ["y"]),
    ]
    tensors = {"a": noise(16, 10, 3, 3), "b": noise(16, 10, 3, 3)}
    made = model(nodes, tensors, {"x": ["n", 10, 8, 8]}, {"y": 4})
    x = correlated(96, 10, 8, 8)
    exact = run(made, x=x[:16])[0]
    together = slim(made, x[16:], "6")
    alone = [slim(made, x[16:], "6", include=name) for name in ("first", "second")]
    apart = exact + sum(run(one, x=x[:16])[0] - exact for one in alone)
    assert relative(exact, run(together, x=x[:16])[0]) < 0.95 * relative(exact, apart)


def test_a_bias_that_callers_may_replace_stays_an_input() -> None:
    rng = np.random.default_rng(0)
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)
    made = model(
        [node], {"w": low_rank(rng, 4, 32, 48), "b": np.ones(32, np.float32)}, {"x": ["n", 48], "b": [32]}, {"y": 2}
    )
    x = (rng.standard_normal((80, 6)) @ rng.standard_normal((6, 48)) + 1).astype(np.float32)
    result = compress(made, ranks=3, benchmark=False, data={"x": x})
    assert [node.status for node in result.report.nodes] == ["factorized"]
    assert [value.name for value in result.model.graph.input] == ["x", "b"]
    other = np.full(32, 5, np.float32)
    assert relative(run(made, x=x, b=other)[0], run(result.model, x=x, b=other)[0]) < 1


def test_outputs_of_another_shape_each_time() -> None:
    """As of detectors with layers behind what leaves out boxes: the fit to the data is taken, as nothing tells."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "v", "b"], ["g"], "one", transB=1),
        helper.make_node("Gemm", ["g", "w", "b"], ["h"], "two", transB=1),
        helper.make_node("Relu", ["h"], ["y"]),
        helper.make_node("Greater", ["y", "zero"], ["positive"]),
        helper.make_node("Reshape", ["positive", "flat"], ["those"]),
        helper.make_node("Compress", ["y", "those"], ["left"]),
        helper.make_node("Unsqueeze", ["left", "axis"], ["column"]),
        helper.make_node("MatMul", ["column", "u"], ["found"], "three"),
    ]
    tensors = {"v": low_rank(rng, 12, 48, 48), "w": low_rank(rng, 12, 48, 48), "b": np.zeros(48, np.float32)}
    tensors |= {"u": low_rank(rng, 1, 1, 16), "zero": np.float32(0), "flat": np.array([-1]), "axis": np.array([1])}
    made = model(nodes, tensors, {"x": ["n", 48]}, {"found": 2})
    x = rng.standard_normal((200, 48)).astype(np.float32)
    result = compress(made, ranks="auto", budget="flops:0.3", benchmark=False, data={"x": x})
    assert result.plan.basis == "outputs"
    assert result.report.fidelity is not None
    assert result.report.fidelity.outputs[0].relative_l2 is None
    with pytest.raises(PromiseError, match="not defined"):
        compress(made, ranks=3, benchmark=False, data={"x": x}, max_error=1.0)


def test_half_precision_behind_an_activation() -> None:
    """Squares of what is above 255 are no numbers in half precision."""
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h"], "fc", transB=1), helper.make_node("Relu", ["h"], ["y"])]
    tensors = {"w": (low_rank(rng, 12, 32, 48) * 500).astype(np.float16), "b": np.zeros(32, np.float16)}
    made = model(nodes, tensors, {"x": ["n", 48]}, {"y": 2}, dtype=onnx.TensorProto.FLOAT16)
    x = rng.standard_normal((200, 48)).astype(np.float16)
    result = compress(made, ranks=6, benchmark=False, data={"x": x})
    assert result.report.fidelity is not None
    assert 0 < (result.report.fidelity.outputs[0].relative_l2 or 0) < 1


def linear(x: Array, layers: list[tuple[Array, Array]], *, fused: bool, turned: bool = False) -> onnx.ModelProto:
    """Linear layers with rectifiers between them, each as one node or as a product and a sum."""
    nodes, tensors, value = [], {}, "x"
    for i, (weight, bias) in enumerate(layers):
        tensors |= {f"w{i}": weight, f"b{i}": bias}
        last = i == len(layers) - 1
        out = "y" if last else f"s{i}"
        if fused:
            nodes.append(helper.make_node("Gemm", [value, f"w{i}", f"b{i}"], [out], f"layer{i}"))
        else:
            terms = [f"b{i}", f"p{i}"] if turned else [f"p{i}", f"b{i}"]
            nodes.append(helper.make_node("MatMul", [value, f"w{i}"], [f"p{i}"], f"layer{i}"))
            nodes.append(helper.make_node("Add", terms, [out], f"sum{i}"))
        value = f"r{i}"
        if not last:
            nodes.append(helper.make_node("Relu", [out], [value]))
    return model(nodes, tensors, {"x": ["n", *x.shape[1:]]}, {"y": x.ndim})


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("options", [{}, {"include": "layer0"}, {"ranks": "7"}])
def test_a_product_and_a_sum_are_fitted_like_a_layer_with_a_bias(options: dict[str, Any], turned: bool) -> None:
    layers = [(noise(12, 16), noise(16)), (noise(16, 16), noise(16)), (noise(16, 10), noise(10))]
    x = correlated(256, 12) + 2
    one, two = (linear(x, layers, fused=fused, turned=turned) for fused in (True, False))
    given = {"ranks": "3", "benchmark": False, "data": {"x": x}} | options
    results = [compress(made, **given) for made in (one, two)]
    exact, *outputs = (run(made, x=x)[0] for made in (one, *(result.model for result in results)))
    assert 1e-3 < relative(exact, outputs[1]) < 0.8
    assert relative(outputs[0], outputs[1]) < 1e-3
    errors = np.array([[node.error.output for node in result.report.nodes] for result in results], np.float64)
    np.testing.assert_allclose(*errors, rtol=1e-3)


def test_the_bias_of_a_sum_is_all_that_changes_besides_the_products() -> None:
    x = noise(128, 4, 12) + 2
    made = linear(x, [(noise(12, 16), noise(1, 1, 16)), (noise(16, 10), noise(10))], fused=False)
    result = slim(made, x, "3")
    before, after = ({node.name: node for node in one.graph.node} for one in (made, result))
    tensors = {tensor.name: tuple(tensor.dims) for tensor in result.graph.initializer}
    for name in ("sum0", "sum1"):
        [new] = set(after[name].input) - set(before[name].input)
        after[name].input[list(after[name].input).index(new)] = f"b{name[-1]}"
        assert after[name] == before[name]
    assert {shape for name, shape in tensors.items() if name.endswith("bias")} == {(1, 1, 16), (10,)}
    assert not {"b0", "b1", "w0", "w1"} & tensors.keys()


def test_what_a_bias_was_made_from_goes_with_it() -> None:
    x = noise(128, 12) + 2
    nodes = [
        helper.make_node("Identity", ["b0"], ["b"]),
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Add", ["p", "b"], ["y"], "sum"),
    ]
    made = model(nodes, {"w": noise(12, 16), "b0": noise(16)}, {"x": ["n", 12]}, {"y": 2})
    result = slim(made, x, "3")
    assert not {"w", "b0"} & {tensor.name for tensor in result.graph.initializer}
    assert [node.op_type for node in result.graph.node] == ["MatMul", "MatMul", "Add"]


def test_a_constant_that_is_no_bias_stays() -> None:
    """Of the product itself, of each position, or of the product where that is an output too."""
    x, w = noise(128, 4, 12) + 2, noise(12, 16)
    product = helper.make_node("MatMul", ["x", "w"], ["p"], "product")
    add = helper.make_node("Add", ["p", "b"], ["y"], "sum")
    for bias, outputs in ((noise(4, 16), {"y": 3}), (noise(16), {"y": 3, "p": 3})):
        made = model([product, add], {"w": w, "b": bias}, {"x": ["n", 4, 12]}, outputs)
        assert next(node for node in slim(made, x, "3").graph.node if node.name == "sum") == add


def test_passes_that_begin_alike_share_their_first_chains(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[str] = []
    read = sequential.known_rows
    monkeypatch.setattr(sequential, "known_rows", lambda job, f, *rest: fitted.append(f.label) or read(job, f, *rest))

    def planned_(job: Job, ranks: dict[str, int]) -> dict[str, Candidate]:
        sites = {found.label: found.site.stage for found in job.found}
        stages = {label: METHODS["svd"].stages(sites[label], (rank,)) for label, rank in ranks.items()}
        return {label: Candidate("svd", (rank,), stages[label], 0.0) for label, rank in ranks.items()}

    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((20, 20)).astype(np.float32) for name in "abc"}
    nodes = [
        helper.make_node("MatMul", [x, w], [y], w) for x, w, y in (("x", "a", "h"), ("h", "b", "g"), ("g", "c", "y"))
    ]
    made = model(nodes, weights, {"x": ["n", 20]}, {"y": 2})
    settings = Settings(data={"x": rng.standard_normal((100, 20)).astype(np.float32)})
    job, other = (prepare(made, settings, silent) for _ in range(2))
    for ranks in ({"a": 5, "b": 5, "c": 5}, {"a": 5, "b": 6, "c": 5}):
        factorise(job, planned_(job, ranks), "outputs", rough=True)
    assert fitted == ["a", "b", "c", "b", "c"]
    for held in (job.wanted, job.chains):
        monkeypatch.setattr(held, "get", lambda _: pytest.fail("taken from another pass"))
    for ranks in ({"a": 5, "b": 5, "c": 5}, {"a": 5, "b": 6, "c": 5}):  # what may be written is as it is without others
        made_again = factorise(job, planned_(job, ranks), "outputs")
    assert fitted[5:] == ["a", "b", "c"] * 2
    assert made_again.model == factorise(other, planned_(other, ranks), "outputs").model


def test_a_weight_that_multiplies_a_table_too() -> None:
    """As of relative positions, which some networks project by the weights of what they are positions of."""
    nodes = [
        helper.make_node("MatMul", ["table", "w"], ["p"], "positions"),
        helper.make_node("MatMul", ["x", "w"], ["k"], "keys"),
        helper.make_node("Add", ["k", "p"], ["y"]),
    ]
    made = model(nodes, {"table": noise(7, 24), "w": low_rank(RNG, 4, 24, 24)}, {"x": ["n", 7, 24]}, {"y": 3})
    x = noise(80, 7, 24)
    result = compress(made, ranks="4", benchmark=False, data={"x": x})
    assert [node.status for node in result.report.nodes] == ["factorized"] * 2
    assert relative(run(made, x=x)[0], run(result.model, x=x)[0]) < 0.05


@pytest.mark.parametrize("given", [False, True])
def test_an_input_that_is_not_in_the_data(given: bool, caplog: pytest.LogCaptureFixture) -> None:
    """As of learned queries, which are stored, or which callers may give."""
    nodes = [
        helper.make_node("MatMul", ["queries", "a"], ["q"], "first"),
        helper.make_node("MatMul", ["x", "b"], ["k"], "second"),
        helper.make_node("Add", ["k", "q"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["r"]),
        helper.make_node("MatMul", ["r", "c"], ["y"], "third"),
    ]
    tensors = {"queries": noise(7, 24), **{name: low_rank(RNG, 4, 24, 24) for name in "abc"}}
    made = model(nodes, tensors, {"x": ["n", 7, 24]}, {"y": 3})
    if given:
        made.graph.input.append(helper.make_tensor_value_info("queries", onnx.TensorProto.FLOAT, [7, 24]))
    x = noise(80, 7, 24)
    result = compress(made, ranks="4", benchmark=False, data={"x": x})
    status = {node.name: node.status for node in result.report.nodes}
    assert status == {"first": "factorized" if given else "skipped", "second": "factorized", "third": "factorized"}
    assert relative(run(made, x=x)[0], run(result.model, x=x)[0]) < 0.05
    assert ("one that callers may give" in caplog.text) == given


def test_nodes_that_share_a_weight_are_fitted_together() -> None:
    """As heads of detectors on maps of several sizes, of which the small ones give few rows; each adds its own bias."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    tensors = {name: noise(24, 24, 3, 3) / np.float32(12) for name in "ab"}
    nodes, biased = [], {}
    for i in range(2):
        x, value = f"x{i}", [f"{name}{i}" for name in "apcy"]
        nodes.append(helper.make_node("Conv", [x, "a", value[1]], [value[0]], f"a{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [value[0]], [value[2]]))
        nodes.append(helper.make_node("Conv", [value[2], "b"], [value[3]], f"b{i}", strides=[2, 2]))
        biased[value[1]] = noise(24)
    base = noise(4, 24, 12, 12)
    drawn = noise(96, 4)
    large = np.einsum("ns,schw->nchw", drawn, base) + 0.1 * noise(96, 24, 12, 12)
    x = {"x0": large, "x1": np.ascontiguousarray(large[:, :, ::4, ::4])}
    shapes: dict[str, Any] = {name: ["n", *array.shape[1:]] for name, array in x.items()}
    made = model(nodes, {**tensors, **biased}, shapes, {"y0": 4, "y1": 4})
    held_out = {name: array[:16] for name, array in x.items()}
    wanted, errors = run(made, **held_out), []
    for data in ({}, {name: array[16:] for name, array in x.items()}):
        result = compress(made, ranks=8, benchmark=False, data=data)
        errors.append([relative(a, b) for a, b in zip(wanted, run(result.model, **held_out), strict=True)])
        sizes = {tensor.name: math.prod(tensor.dims) for tensor in result.model.graph.initializer}
        assert sizes.keys() >= biased.keys()
        assert len(sizes) <= len(biased) + 2 * 3  # factors are not made twice
        assert result.report.totals.params.after == sum(sizes[name] for name in sizes.keys() - biased.keys())
    assert np.all(np.array(errors[1]) < 0.85 * np.array(errors[0]))


def test_a_weight_used_again_behind_itself_is_fitted_to_what_the_original_sees() -> None:
    """As in networks that repeat a block; there, what comes before is still to be factorised when it is its turn."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((24, 24)) @ np.diag(np.geomspace(1, 0.02, 24)) / 4
    nodes = [
        helper.make_node("Gemm", ["x", "w", "p"], ["a"], "first", transB=1),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "q"], ["y"], "second", transB=1),
    ]
    made = model(nodes, {"w": weight.astype(np.float32), "p": noise(24), "q": noise(24)}, {"x": ["n", 24]}, {"y": 2})
    x = correlated(400, 24)
    errors = [relative(run(made, x=x[:80])[0], run(slim(made, d, "8"), x=x[:80])[0]) for d in (None, x[80:])]
    assert errors[1] < 0.95 * errors[0]


def test_nodes_behind_a_repeated_weight_see_what_its_chain_gives() -> None:
    rng = np.random.default_rng(0)
    weight, last = ((rng.standard_normal((16, 16)) / 4).astype(np.float32) for _ in range(2))
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], "first", transB=1),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Gemm", ["r", "w"], ["b"], "second", transB=1),
        helper.make_node("Relu", ["b"], ["s"]),
        helper.make_node("Gemm", ["s", "v"], ["y"], "last", transB=1),
    ]
    made = model(nodes, {"w": weight, "v": last}, {"x": ["n", 16]}, {"y": 2})
    x = correlated(100, 16)
    job = prepare(made, Settings(data={"x": x}, benchmark=False), silent)
    stage = job.found[0].site.stage
    planned = {f.label: Candidate("svd", (6,), METHODS["svd"].stages(stage, (6,)), 0.0) for f in job.found}
    leaders = [f for f in job.found if f.group == f.label]
    one = sequential.Fitting(job, planned, "outputs", rough=False)
    chains = {found.label: chain for found, chain in one.chains(leaders)}
    assert chains.keys() == {"first", "last"}
    repeated = factorise(job, {n: planned[n] for n in ("first", "second")}, "outputs").model
    repeated.graph.output.append(helper.make_tensor_value_info("s", 1, None))
    assert job.inputs is not None
    for feed, read in zip(job.inputs.fit.feeds, one._factorised.read(["s"]), strict=True):
        assert relative(run(repeated, **feed)[-1], read["s"]) < 1e-5
