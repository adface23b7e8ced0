"""Rules for derivatives give what differences of the outputs do, for every operator that has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from onnx_tucker.adjoints import RULES
from onnx_tucker.adjoints.backward import Backward
from onnx_tucker.adjoints.call import reduced
from onnx_tucker.graph.view import View
from onnx_tucker.runtime.session import FAILURES, Machine
from tests.helpers import Array, look, model, run, session

RNG = np.random.default_rng(0)
OLD = tuple(map(int, ort.__version__.split(".")[:2])) < (1, 29)


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


class Case(NamedTuple):
    """A node on a varying value `v`, of this shape, and constants."""

    op: str
    shape: tuple[int, ...] = (2, 4, 6, 5)
    constants: tuple[Array, ...] = ()
    attributes: dict[str, Any] = {}  # noqa: RUF012  # nothing writes to it
    at: int = 0
    opset: int = 18
    outputs: int = 1
    positive: bool = False

    def __str__(self) -> str:
        return f"{self.op} {self.attributes} at {self.at}"


def ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def resize(
    scales: tuple[float, ...],
    shape: tuple[int, ...] = (2, 4, 6, 5),
    opset: int = 18,
    mode: str = "nearest",
    **more: Any,
) -> Case:
    roi = (noise(0),) if opset > 10 else ()
    return Case("Resize", shape, (*roi, np.array(scales, np.float32)), {"mode": mode, **more}, opset=opset)


def lstm(directions: int) -> tuple[Array, ...]:
    """Weights of an LSTM from 3 to 4 values, and its bias."""
    return noise(directions, 16, 3), noise(directions, 16, 4), noise(directions, 32)


def gru(directions: int) -> tuple[Array, ...]:
    """The same of a GRU."""
    return noise(directions, 12, 3), noise(directions, 12, 4), noise(directions, 24)


W, W1, W3 = noise(6, 4, 3, 2), noise(6, 4, 3), noise(3, 4, 3, 3, 2)
MOVED = [
    Case("Cast", attributes={"to": 1}),
    Case("Concat", constants=(noise(2, 3, 6, 5),), attributes={"axis": 1}),
    Case("Concat", constants=(noise(2, 3, 6, 5),), attributes={"axis": 1}, at=1),
    Case("DepthToSpace", attributes={"blocksize": 2}),
    Case("Dropout"),
    Case("Expand", (2, 1, 5), (ints(2, 4, 5),)),
    Case("Flatten"),
    Case("Gather", constants=(ints(3, 0, 3),), attributes={"axis": 2}),
    Case("GatherElements", (3, 4), (np.array([[0, 2, 1, 0], [1, 1, 1, 1]]),)),
    Case("GatherND", (3, 4), (np.array([[0, 2], [0, 2], [1, 1]]),)),
    Case("Identity"),
    Case("Pad", constants=(ints(0, 1, 2, 0, 0, 0, 1, 3), np.float32(2.0))),
    Case("Pad", constants=(ints(0, 0, 2, 1, 0, 0, 1, 3),), attributes={"mode": "reflect"}),
    Case("Pad", constants=(ints(0, 0, 2, 1, 0, 0, 1, 3),), attributes={"mode": "edge"}),
    Case("Reshape", constants=(ints(2, 12, -1),)),
    Case("Slice", constants=(ints(1), ints(-1), ints(2), ints(2))),
    Case("SpaceToDepth", (2, 3, 6, 4), attributes={"blocksize": 2}),
    Case("Split", constants=(ints(1, 3),), attributes={"axis": 1}, outputs=2),
    Case("Squeeze", (2, 1, 5), (ints(1),)),
    Case("Tile", constants=(ints(1, 2, 1, 3),)),
    Case("Transpose", attributes={"perm": [0, 2, 3, 1]}),
    Case("Unsqueeze", (2, 5), (ints(1),)),
]
RESIZED = [
    resize((1, 1, 2, 2)),
    resize((1, 1, 2, 2), opset=10),
    resize((1, 1, 1.5, 0.5), mode="linear"),
    resize((1, 1, 2, 2), mode="linear", coordinate_transformation_mode="align_corners"),
    resize((1, 1, 2, 3), mode="cubic", exclude_outside=1),
    resize((1, 1, 0.5, 0.5), mode="linear", antialias=1),
    resize((1, 1, 1.3), (2, 4, 7), mode="linear"),
    resize((1, 1, 2, 1, 2), (1, 2, 4, 3, 5), mode="linear"),
    resize((3, 2), (4, 5)),
    resize((2, 1.4), mode="linear", axes=[2, -1]),
    Case("Resize", (1, 1, 7), (noise(0), noise(0), ints(1, 1, 31)), {"nearest_mode": "floor"}),
    Case("Resize", (0, 4, 6), (noise(0), noise(0), ints(0, 4, 9)), {"mode": "linear"}),
    Case("Resize", constants=(noise(0), noise(0), ints(2, 4, 9, 11)), attributes={"mode": "linear"}),
    Case("Upsample", constants=(np.array([1, 1, 2, 3], np.float32),), attributes={"mode": "nearest"}, opset=9),
    Case("Upsample", constants=(np.array([1, 1, 2, 3], np.float32),), attributes={"mode": "linear"}, opset=9),
]
UNARY = (
    "Abs Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Reciprocal Relu Selu Sigmoid Sin Cos "
)
BY_ITSELF = [
    *(Case(op, opset=20, positive=op in ("Log", "Sqrt", "Reciprocal")) for op in UNARY.split()),
    *(Case(op, positive=op == "Sqrt") for op in "Softplus Softsign Sqrt Tanh ThresholdedRelu".split()),
    *(Case(op, constants=(noise(4, 1, 5),)) for op in "Add Div Max Mean Min Mul Sub Sum".split()),
    *(Case(op, (4, 1, 5), (noise(2, 4, 6, 5) ** 2 + 1,), at=1, positive=True) for op in "Add Div Mul Pow Sub".split()),
    Case("BatchNormalization", constants=(noise(4), noise(4), noise(4), noise(4) ** 2)),
    Case("Elu", attributes={"alpha": 0.5}),
    Case("LeakyRelu", attributes={"alpha": 0.3}),
    Case("PRelu", constants=(noise(4, 1, 1),)),
    Case("Pow", constants=(np.float32(3),)),
    Case("Swish", opset=24),
    Case("Where", constants=(RNG.random((2, 4, 6, 5)) > 0.5, noise(5)), at=1),
]
SUMMED = [
    Case("GlobalAveragePool"),
    Case("GlobalMaxPool"),
    Case("ReduceMax", constants=(ints(1, -1),)),
    Case("ReduceMean", constants=(ints(2),), attributes={"keepdims": 0}),
    Case("ReduceMean", attributes={"axes": [1, 3]}, opset=13),
    Case("ReduceMean"),
    Case("ReduceSum", constants=(ints(1),), opset=13),
    *(Case(f"Reduce{kind}", constants=(ints(1, -1),)) for kind in "L1 L2 LogSumExp Min SumSquare".split()),
    Case("LpNormalization", attributes={"axis": 1}),
    Case("LpNormalization", attributes={"p": 1}),
    Case("LRN", (2, 7, 3, 2), attributes={"size": 3, "alpha": 0.5, "bias": 1.5}),
    Case("LRN", (2, 7, 3, 2), attributes={"size": 5, "alpha": 0.5, "beta": 0.5}),
    *(Case(op, attributes={"axis": axis}) for op in ("Softmax", "LogSoftmax") for axis in (1, -1)),
    *(Case(op, opset=11) for op in ("Softmax", "LogSoftmax")),
    Case("GroupNormalization", constants=(noise(2), noise(2)), attributes={"num_groups": 2}),
    Case("GroupNormalization", constants=(noise(4), noise(4)), attributes={"num_groups": 2}, opset=21),
    Case("InstanceNormalization", constants=(noise(4), noise(4))),
    Case("LayerNormalization", constants=(noise(6, 5), noise(6, 5)), attributes={"axis": 2}),
]
LINEAR = [
    Case("Conv", constants=(W,)),
    Case("Conv", constants=(W, noise(6)), attributes={"pads": [1, 0, 2, 1]}),
    Case("Conv", constants=(W,), attributes={"strides": [2, 3], "pads": [1, 1, 0, 0]}),
    Case("Conv", constants=(W,), attributes={"dilations": [2, 3], "pads": [2, 0, 3, 1]}),
    Case("Conv", constants=(noise(6, 2, 3, 2),), attributes={"group": 2, "pads": [3, 2, 3, 2]}),
    Case("Conv", constants=(noise(8, 2, 3, 2),), attributes={"group": 2, "strides": [2, 2]}),
    Case("Conv", (2, 4, 7), (W1,), {"strides": [4], "pads": [0, 0]}),
    *(Case("Conv", (2, 4, 8), (W1,), {"strides": [2], "auto_pad": a}) for a in ("SAME_UPPER", "SAME_LOWER", "VALID")),
    Case("Conv", (1, 4, 5, 6, 4), (W3,), {"pads": [1, 1, 1, 1, 1, 1]}),
    Case("Conv", (1, 4, 5, 6, 4), (W3,), {"strides": [1, 2, 2], "dilations": [2, 1, 1]}),
    Case("ConvTranspose", constants=(noise(4, 3, 3, 2),), attributes={"strides": [2, 1], "pads": [1, 0, 0, 1]}),
    Case("ConvTranspose", (2, 4, 5), (noise(4, 3, 3),), {"strides": [3], "output_padding": [2], "group": 2}),
    Case("Einsum", (2, 3, 4), (noise(4, 5),), {"equation": "bij, jk -> bik"}),
    Case("Einsum", (4, 5), (noise(2, 3, 4),), {"equation": "bij,jk->ibk"}, at=1),
    Case("Einsum", (2, 3), (noise(3, 4), noise(4, 2)), {"equation": "ab,bc,ca->ac"}),
    Case("Gemm", (3, 4), (noise(4, 5), noise(5))),
    Case("Gemm", (4, 3), (noise(5, 4),), {"transA": 1, "transB": 1, "alpha": 0.5}),
    Case("Gemm", (4, 5), (noise(3, 4),), at=1),
    Case("Gemm", (5,), (noise(3, 4), noise(4, 5)), {"beta": 2.0}, at=2),
    Case("MatMul", (2, 3, 4), (noise(4, 5),)),
    Case("MatMul", (4, 5), (noise(2, 3, 4),), at=1),
    Case("MaxPool", attributes={"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    Case("MaxPool", (1, 2, 5, 6, 4), attributes={"kernel_shape": [2, 2, 2], "dilations": [2, 1, 1]}),
    Case("MaxPool", attributes={"kernel_shape": [4, 4], "strides": [3, 3], "ceil_mode": 1}),
    Case("AveragePool", attributes={"kernel_shape": [2, 2], "strides": [2, 2]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    *(
        Case("AveragePool", shape, attributes={"kernel_shape": [3, 2], "strides": [2, 3], "ceil_mode": 1, **more})
        for shape in ((2, 4, 6, 5), (1, 2, 7, 6))
        for more in ({}, {"pads": [1, 0, 1, 1]}, {"pads": [1, 0, 1, 1], "count_include_pad": 1})
    ),
    Case("AveragePool", attributes={"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1}),
    Case("AveragePool", (1, 2, 6, 4, 4), attributes={"kernel_shape": [2, 2, 2], "strides": [2, 2, 2]}),
]
ALL = np.array([5, 5], np.int32)
RECURRENT = [
    Case("LSTM", (5, 2, 3), lstm(1), {"hidden_size": 4}),
    Case("LSTM", (5, 2, 3), (*lstm(1), ALL, noise(1, 2, 4), noise(1, 2, 4)), {"hidden_size": 4}, outputs=3),
    Case("LSTM", (5, 2, 3), lstm(2), {"hidden_size": 4, "direction": "bidirectional"}, outputs=3),
    Case("LSTM", (5, 2, 3), lstm(1)[:2], {"hidden_size": 4, "direction": "reverse"}),
    Case("GRU", (5, 2, 3), gru(1), {"hidden_size": 4}, outputs=2),
    Case("GRU", (5, 2, 3), gru(1)[:2], {"hidden_size": 4, "linear_before_reset": 1}),
    Case("GRU", (5, 2, 3), (*gru(1), ALL, noise(1, 2, 4)), {"hidden_size": 4, "linear_before_reset": 1}),
    Case("GRU", (5, 2, 3), gru(2), {"hidden_size": 4, "direction": "bidirectional"}, outputs=2),
]
CASES = [*MOVED, *RESIZED, *BY_ITSELF, *SUMMED, *LINEAR, *RECURRENT]


def graph_of(case: Case) -> Any:
    tensors = {f"c{i}": array for i, array in enumerate(case.constants)}
    names = [name if array.size else "" for name, array in tensors.items()]
    names.insert(case.at, "v")
    outputs = [f"y{i}" for i in range(case.outputs)]
    nodes = [
        helper.make_node("Identity", ["x"], ["v"]),
        helper.make_node(case.op, names, outputs, **case.attributes),
        *(helper.make_node("Identity", [f"y{i}"], [f"z{i}"]) for i in range(case.outputs)),
    ]
    return model(nodes, tensors, {"x": case.shape}, {f"z{i}": 0 for i in range(case.outputs)}, opset=case.opset)


def unranked(made: Any) -> Any:
    for output in made.graph.output:
        output.type.tensor_type.ClearField("shape")
    return made


def derivatives(made: Any, x: Array, weights: list[Array], wanted: str = "v") -> dict[str, Array]:
    context, _ = look(made)
    ends = [output.name for output in made.graph.output]
    backward = Backward(View.of(made, context), Machine(1), Path(), [wanted], ends)
    return dict(backward.run({"x": x}, lambda _: dict(zip(backward.outputs, weights, strict=True))))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_derivatives_are_those_of_differences(case: Case) -> None:
    made = unranked(graph_of(case))
    x = noise(*case.shape)
    x = np.abs(x) + np.float32(0.5) if case.positive else x
    if OLD and {"ceil_mode", "pads", "count_include_pad"} <= case.attributes.keys():
        pytest.skip("this onnxruntime counts pads otherwise where lengths are rounded up")
    try:
        runs = session(made)
    except FAILURES as error:
        pytest.skip(f"this onnxruntime does not run it: {error}")
    weights = [noise(*y.shape) for y in runs.run(None, {"x": x})]
    found = derivatives(made, x, weights)["v"]
    assert found.shape == x.shape
    assert found.dtype == np.float32
    usual = float(np.linalg.norm(found)) / max(x.size, 1) ** 0.5
    for i in RNG.choice(x.size, min(x.size, 16), replace=False):
        higher, lower = x.copy(), x.copy()
        higher.flat[i] += np.float32(1e-2)
        lower.flat[i] -= np.float32(1e-2)
        ends = (runs.run(None, {"x": way}) for way in (higher, lower))
        pairs = zip(weights, *ends, strict=True)
        change = sum(float(np.sum(w * (up.astype(np.float64) - down))) for w, up, down in pairs)
        expected = change / float(higher.flat[i] - lower.flat[i])
        assert abs(found.flat[i] - expected) <= 0.05 * usual + 0.02 * abs(expected) + 1e-3


@pytest.mark.parametrize("outlier", [-np.inf, -3.4e38, -1e9, -1e4])
@pytest.mark.parametrize("op", ["Sigmoid", "Tanh", "Max"])
def test_what_hides_others_leaves_their_derivatives_as_they_are(op: str, outlier: float) -> None:
    case = Case(op, (4, 6), (np.float32([-3e38]),) if op == "Max" else ())
    x, weights = noise(4, 6), [noise(4, 6)]
    plain = derivatives(unranked(graph_of(case)), x, weights)["v"]
    x[1, 2] = outlier
    found = derivatives(unranked(graph_of(case)), x, weights)["v"]
    assert np.isfinite(found[1, 2])
    plain[1, 2] = found[1, 2]
    assert np.allclose(found, plain, rtol=1e-2, atol=1e-3)


def test_steps_are_not_lost_in_what_is_of_another_scale() -> None:
    weights = [noise(4, 6)]
    found = derivatives(unranked(graph_of(Case("Sigmoid", (4, 6)))), 1e-4 * noise(4, 6), weights)["v"]
    assert np.allclose(found, weights[0] / 4, rtol=0.05)


def test_all_rules_are_tried() -> None:
    assert {case.op for case in CASES} == {*RULES}


def test_small_values_are_not_lost_in_large_ones() -> None:
    case = Case("Add", (1, 1, 5), (1e6 * noise(2, 4, 6, 5),))
    weights = [noise(2, 4, 6, 5)]
    found = derivatives(unranked(graph_of(case)), 1e-6 * noise(1, 1, 5), weights)["v"]
    assert np.allclose(found, reduced(weights[0], (1, 1, 5)), rtol=1e-3, atol=1e-2)


def test_sums_are_over_what_is_repeated() -> None:
    change = noise(2, 3, 4)
    assert np.allclose(reduced(change, (3, 1)), change.sum((0, 2)).reshape(3, 1))
    assert reduced(change, (2, 3, 4)) is change


@pytest.mark.parametrize(
    "case",
    [
        Case("Pad", (4, 5), attributes={"pads": [0, 1, 1, 0], "value": 1.0}, opset=10),
        Case("BatchNormalization", (4,), (noise(2, 4, 5, 4), noise(4), noise(4), noise(4) ** 2), at=1),
        Case(
            "Resize", (1, 1, 4, 4), (np.array([0, 0, 0.2, 0.2, 1, 1, 0.9, 0.9], np.float32), noise(0), ints(1, 1, 3, 3))
        )._replace(attributes={"coordinate_transformation_mode": "tf_crop_and_resize"}),
        resize((1, 1, 2, 1.1), mode="linear"),
        Case("Resize", (4, 5), (noise(0), noise(0), ints(8, 20)), {"keep_aspect_ratio_policy": "not_larger"}),
        Case("Upsample", attributes={"mode": "linear", "scales": [1.0, 1.0, 2.0, 3.0]}, opset=7),
        Case("Einsum", (2, 1), (noise(3, 4),), {"equation": "ij,jk->ik"}),
        Case("LSTM", (5, 2, 3), lstm(1), {"hidden_size": 4, "clip": 1.0}),
        Case("LSTM", (5, 2, 3), (*lstm(1), np.array([3, 5], np.int32)), {"hidden_size": 4}),
        Case("GRU", (5, 2, 3), gru(1), {"hidden_size": 4, "activations": ["Sigmoid", "Relu"]}),
        Case("GRU", (1, 12, 3), (noise(5, 2, 3), *gru(1)[1:]), {"hidden_size": 4}, at=1),
        Case("Einsum", (3, 3), (noise(3),), {"equation": "ii,i->i"}),
        Case("Einsum", (3, 4), (noise(3),), {"equation": "ij,i->i"}),
        Case("Einsum", (3, 4), (noise(4, 5),), {"equation": "...j,jk->...k"}),
        Case("ConvTranspose", (2, 4, 5), (noise(4, 3, 3),), {"auto_pad": "SAME_UPPER", "strides": [2]}),
        Case("CumSum", (2, 4), (np.array(1),)),
    ],
    ids=str,
)
def test_what_no_rule_knows_has_no_derivatives(case: Case) -> None:
    made, x = unranked(graph_of(case)), noise(*case.shape)
    assert derivatives(made, x, [noise(*run(made, x=x)[0].shape)]) == {}


def test_a_mask_of_infinities_lets_the_others_through() -> None:
    mask = np.triu(np.ones((5, 5), bool), 1)
    nodes = [
        helper.make_node("Identity", ["x"], ["v"]),
        helper.make_node("Where", ["mask", "low", "v"], ["w"]),
        helper.make_node("Softmax", ["w"], ["y"]),
    ]
    made = model(nodes, {"mask": mask, "low": np.float32(-np.inf)}, {"x": [2, 5, 5]}, {"y": 3})
    found = derivatives(made, noise(2, 5, 5), [noise(2, 5, 5)])["v"]
    assert np.isfinite(found).all()
    assert not found[:, mask].any()
    assert found[:, ~mask].any()


def test_a_part_that_is_not_known_is_not_left_out() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["v"]),
        helper.make_node("QuantizeLinear", ["v", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["d"]),
        helper.make_node("Add", ["v", "d"], ["y"]),
    ]
    made = model(nodes, {"s": np.float32(0.1)}, {"x": [3, 4]}, {"y": 2})
    assert derivatives(made, noise(3, 4), [noise(3, 4)]) == {}


def test_values_that_are_rounded_on_the_way_keep_their_places() -> None:
    nodes = [
        helper.make_node("Identity", ["x"], ["v"]),
        helper.make_node("Cast", ["v"], ["h"], to=10),
        helper.make_node("Cast", ["h"], ["y"], to=1),
    ]
    made, weights = model(nodes, {}, {"x": [10, 1000]}, {"y": 2}), noise(10, 1000)
    assert np.allclose(derivatives(made, noise(10, 1000), [weights])["v"], weights)
