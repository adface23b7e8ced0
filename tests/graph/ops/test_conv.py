"""Full rank equals the original in onnxruntime, for every method and every geometry of a Conv."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from onnx_tucker.factor import METHODS
from onnx_tucker.graph.find import context_of, find
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.shapes import infer
from onnx_tucker.graph.splice import build, splice
from onnx_tucker.types import Site, Skip
from tests.helpers import conv_model, relative, run


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, object]:
    axes = draw(st.integers(1, 3))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    same = auto_pad.startswith("SAME")
    each = st.lists(st.integers(1, 3), min_size=axes, max_size=axes)
    given_: dict[str, object] = {
        "kernel": draw(each),
        "strides": draw(each),
        "dilations": [1] * axes if same else draw(st.lists(st.integers(1, 2), min_size=axes, max_size=axes)),
    }
    if auto_pad == "NOTSET":
        given_["pads"] = draw(st.lists(st.integers(0, 2), min_size=2 * axes, max_size=2 * axes))
    else:
        given_["auto_pad"] = auto_pad
    return given_


@given(
    name=st.sampled_from(list(METHODS)),
    geometry=geometries(),
    out=st.integers(1, 6),
    inp=st.integers(1, 6),
    bias=st.booleans(),
    batch=st.integers(1, 2),
    opset=st.sampled_from([7, 11, 18, 22]),
)
def test_full_rank_equals_the_original(
    name: str, geometry: dict[str, object], out: int, inp: int, bias: bool, batch: int, opset: int
) -> None:
    kernel = geometry["kernel"]
    assert isinstance(kernel, list)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((out, inp, *kernel)).astype(np.float32)
    attributes = {k: v for k, v in geometry.items() if k != "kernel"}
    original = conv_model(weight, bias, [7] * len(kernel), opset, **attributes)
    context = context_of(original, infer(original, {}, {}))
    [found] = find(original, context)
    site, method = found.site, METHODS[name]
    if not method.applies(site.stage, by_name=True):
        return
    chain = method.chain(site.weight, site.stage, method.dimensions(site.stage))
    piece = build(found, name, chain, context, Names(original))
    spliced = splice(original, {"conv": piece}, [found])
    x = rng.standard_normal((batch, inp, *[7] * len(kernel))).astype(np.float32)
    [a], [b] = run(original, x=x), run(spliced, x=x)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= 1e-4 * max(1.0, float(np.abs(a).max()))


def test_reading_a_conv() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3, 2)).astype(np.float32)
    made = conv_model(weight, size=[9, 8], strides=[2, 1], pads=[1, 0, 1, 0])
    [found] = find(made, context_of(made, infer(made, {}, {})))
    assert isinstance(found.reading.found, Site)
    assert found.site.window.strides == (2, 1)
    assert found.site.window.dilations == (1, 1)
    assert found.site.input_shape == (1, 4, 9, 8)
    assert found.reading.params == weight.size
    assert found.reading.bias_params == 6
    assert found.reading.layer is not None
    assert found.reading.layer.macs == 5 * 7 * weight.size


def test_groups_are_skipped_but_counted() -> None:
    weight = np.ones((4, 2, 3), np.float32)
    for made, word in ((conv_model(weight, group=2), "grouped"), (conv_model(weight[:, :1], group=4), "depthwise")):
        [found] = find(made, context_of(made, infer(made, {}, {})))
        assert isinstance(found.reading.found, Skip)
        assert word in found.reading.found.reason
        assert found.reading.layer is not None
        assert found.reading.layer.macs == found.reading.params * 6  # type: ignore[operator]


def test_the_last_stage_keeps_the_bias_and_the_middle_one_the_window() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    made = conv_model(weight, strides=[2], pads=[1, 1], dilations=[2])
    context = context_of(made, infer(made, {}, {}))
    [found] = find(made, context)
    chain = METHODS["tucker2"].chain(found.site.weight, found.site.stage, (2, 3))
    piece = build(found, "tucker2", chain, context, Names(made))
    assert [len(node.input) for node in piece.nodes] == [2, 2, 3]
    strides = [next(list(a.ints) for a in n.attribute if a.name == "strides") for n in piece.nodes]
    assert strides == [[1], [2], [1]]
    assert [n.name for n in piece.nodes] == ["conv/tucker2/0", "conv/tucker2/1", "conv"]


def test_float64_and_float16_stay_what_they_are() -> None:
    for dtype in (np.float16, np.float64):
        weight = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(dtype)
        made = conv_model(weight)
        for value in (*made.graph.input, *made.graph.output):
            value.type.tensor_type.elem_type = made.graph.initializer[0].data_type
        context = context_of(made, infer(made, {}, {}))
        [found] = find(made, context)
        chain = METHODS["tucker1_out"].chain(found.site.weight, found.site.stage, (6,))
        spliced = splice(made, {"conv": build(found, "tucker1_out", chain, context, Names(made))}, [found])
        assert {t.data_type for t in spliced.graph.initializer} == {made.graph.initializer[0].data_type}
        x = np.random.default_rng(1).standard_normal((1, 4, 8)).astype(dtype)
        a, b = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (made, spliced))  # onnxruntime has neither
        assert relative(a, b) < np.finfo(dtype).eps * 100
