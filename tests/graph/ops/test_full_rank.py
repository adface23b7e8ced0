"""Full rank equals the original in onnxruntime: every operator x method x geometry x opset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from onnx_tucker.factor import METHODS
from onnx_tucker.graph.ops import OPS
from onnx_tucker.runtime.session import FAILURES
from tests.helpers import Array, factorised, look, model, run, session


def newest_opset() -> int:
    """The newest opset that onnxruntime takes."""
    for opset in range(onnx.defs.onnx_opset_version(), 7, -1):
        made = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": [1]}, {"y": 1}, opset=opset)
        try:
            session(made)
        except FAILURES:
            continue
        return opset
    raise AssertionError("there is one")


OPSETS = sorted({7, 9, 11, 13, 17, 21, newest_opset()})


def one_node(
    node: onnx.NodeProto, x: Array, constants: dict[str, Array], opset: int, rank: int, shape: list[int | str]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(x.dtype), [None] * rank)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    if node.domain:
        opsets.append(helper.make_opsetid(node.domain, 1))
    return helper.make_model(graph, ir_version=8 if opset < 21 else 10, opset_imports=opsets)


Case = tuple[onnx.ModelProto, Array]


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def each(draw: st.DrawFn, low: int, high: int, length: int) -> list[int]:
    return draw(st.lists(st.integers(low, high), min_size=length, max_size=length))


@st.composite
def conv(draw: st.DrawFn, opset: int, op_type: str = "Conv") -> Case:
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    out, inp = draw(st.integers(1, 4)), draw(st.integers(1 + (groups > 1), 4))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    kernel = each(draw, 1, 3, axes)
    attributes: dict[str, object] = {"group": groups, "strides": each(draw, 1, 3, axes), "auto_pad": auto_pad}
    if not auto_pad.startswith("SAME"):
        attributes["dilations"] = each(draw, 1, 2, axes)
    if auto_pad == "NOTSET":
        attributes["pads"] = each(draw, 0, 2, 2 * axes)
    constants = {"w": noise(groups * out, inp, *kernel)}
    if draw(st.booleans()):
        constants["b"] = noise(groups * out)
    domain = ""
    if op_type == "FusedConv":
        domain = "com.microsoft"
        attributes["activation"] = draw(st.sampled_from(["Relu", "Tanh", "LeakyRelu"]))
        if attributes["activation"] == "LeakyRelu":
            attributes["activation_params"] = [0.3]
    node = helper.make_node(op_type, ["x", *constants], ["y"], "node", domain=domain, **attributes)
    x = noise(draw(st.integers(1, 2)), groups * inp, *[7] * axes)
    return one_node(node, x, constants, opset, axes + 2, list(x.shape)), x


@st.composite
def conv_transpose(draw: st.DrawFn, opset: int) -> Case:
    axes, groups = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    out, inp = draw(st.integers(1, 4)), draw(st.integers(1 + (groups > 1), 4))
    kernel, strides = each(draw, 1, 3, axes), each(draw, 1, 3, axes)
    attributes: dict[str, object] = {"group": groups, "strides": strides}
    form = draw(st.sampled_from(["pads", "pads", "output_shape", "SAME_UPPER", "SAME_LOWER", "VALID"]))
    if form == "output_shape":
        attributes["output_shape"] = [stride * 4 + 1 for stride in strides]
    elif form == "pads":
        attributes["dilations"] = each(draw, 1, 2, axes)
        attributes["pads"] = each(draw, 0, 1, 2 * axes)
        attributes["output_padding"] = [draw(st.integers(0, stride - 1)) for stride in strides]
    else:
        attributes["auto_pad"] = form
        kernel = [max(sizes) for sizes in zip(kernel, strides, strict=True)]  # or onnxruntime differs from ONNX
    constants = {"w": noise(groups * inp, out, *kernel)}
    if draw(st.booleans()):
        constants["b"] = noise(groups * out)
    node = helper.make_node("ConvTranspose", ["x", *constants], ["y"], "node", **attributes)
    x = noise(draw(st.integers(1, 2)), groups * inp, *[5] * axes)
    return one_node(node, x, constants, opset, axes + 2, list(x.shape)), x


@st.composite
def gemm(draw: st.DrawFn, opset: int, op_type: str = "Gemm") -> Case:
    trans_a, trans_b, inp = draw(st.booleans()), draw(st.booleans()), draw(st.integers(1, 6))
    forms = [(5,), (1,), (), (3, 1), (3, 5), (1, 5)] + ([None] if opset >= 11 else [])
    c = draw(st.sampled_from(forms))
    constants = {"w": noise(5, inp) if trans_b else noise(inp, 5)}
    if c is not None:
        constants["c"] = noise(*c)
    attributes: dict[str, object] = {"transA": int(trans_a), "transB": int(trans_b)}
    attributes |= {"alpha": draw(st.sampled_from([1.0, -0.5])), "beta": draw(st.sampled_from([1.0, 0.25]))}
    domain = ""
    if op_type == "FusedGemm":
        domain = "com.microsoft"
        attributes["activation"] = draw(st.sampled_from(["Relu", "Tanh"]))
    node = helper.make_node(op_type, ["x", *constants], ["y"], "node", domain=domain, **attributes)
    x = noise(inp, 3) if trans_a else noise(3, inp)
    return one_node(node, x, constants, opset, 2, list(x.shape)), x


@st.composite
def matmul(draw: st.DrawFn, opset: int, op_type: str = "MatMul") -> Case:
    left, inp, out = draw(st.booleans()), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    batch = draw(st.sampled_from([(), (), (2,), (3, 1), (3, 2)]))
    leading = draw(st.sampled_from([(), (1,), (2,), (3, 2), (4, 3, 2)]))
    attributes: dict[str, object] = {}
    vector = not batch and op_type == "MatMul" and draw(st.booleans())
    weight = noise(*batch, out, inp) if left else noise(*batch, inp, out)
    x = noise(inp) if vector else noise(*leading, inp, 3) if left else noise(*leading, 3, inp)
    try:
        np.broadcast_shapes(weight.shape[:-2], x.shape[:-2])
    except ValueError:  # batches that do not go together
        weight = weight.reshape(-1, *weight.shape[-2:])[0]
    if op_type == "FusedMatMul":
        attributes["alpha"] = draw(st.sampled_from([1.0, 0.5]))
        if draw(st.booleans()):
            attributes["transA" if left else "transB"] = 1
            weight = np.ascontiguousarray(np.swapaxes(weight, -1, -2))
        if draw(st.booleans()):
            attributes["transB" if left else "transA"] = 1
            x = np.ascontiguousarray(np.swapaxes(x, -1, -2))
    domain = "com.microsoft" if op_type == "FusedMatMul" else ""
    node = helper.make_node(op_type, ["w", "x"] if left else ["x", "w"], ["y"], "node", domain=domain, **attributes)
    rank = 1 if vector else max(weight.ndim, x.ndim)
    return one_node(node, x, {"w": weight}, opset, rank, list(x.shape)), x


CASES: dict[str, Callable[[int], st.SearchStrategy[Case]]] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Gemm": gemm,
    "MatMul": matmul,
    "FusedConv": lambda opset: conv(opset, "FusedConv"),
    "FusedGemm": lambda opset: gemm(opset, "FusedGemm"),
    "FusedMatMul": lambda opset: matmul(opset, "FusedMatMul"),
}


def test_every_operator_has_cases() -> None:
    assert list(CASES) == list(OPS)


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("op_type", CASES)
@pytest.mark.parametrize("name", METHODS)
def test_full_rank_equals_the_original(op_type: str, name: str, opset: int) -> None:
    @settings(max_examples=100 if opset == OPSETS[-1] else 25)  # geometries have little to do with opsets
    @given(data=st.data())
    def check(data: st.DataObject) -> None:
        equals_the_original(data, op_type, name, opset)

    check()


def equals_the_original(data: st.DataObject, op_type: str, name: str, opset: int) -> None:
    made, x = data.draw(CASES[op_type](opset))
    [found] = look(made)[1]
    if not METHODS[name].applies(found.site.stage, by_name=True):
        return
    result = factorised(made, {"node": (name, None)})
    onnx.checker.check_model(result, full_check=True)
    [a], [b] = run(made, x=x), run(result, x=x)
    assert a.shape == b.shape
    assert np.abs(a - b).max(initial=0.0) <= 1e-4 * max(1.0, float(np.abs(a).max(initial=0.0)))
    assert found.reading.layer is not None
    assert found.reading.layer.outputs == a.size
