from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from onnx_tucker.types import Stage
from tests.helpers import conv_model, factorised, look, reasons, relative, run


def test_reading_a_conv() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3, 2)).astype(np.float32)
    made = conv_model(weight, size=[9, 8], strides=[2, 1], pads=[1, 0, 1, 0])
    [found] = look(made)[1]
    assert found.is_site
    assert found.site.stage.window.strides == (2, 1)
    assert found.site.stage.window.dilations == (1, 1)
    assert found.site.input_shape == (1, 4, 9, 8)
    assert found.reading.params == weight.size
    assert found.reading.bias_params == 6
    assert found.reading.layer is not None
    assert found.reading.layer.macs == 5 * 7 * weight.size


def test_groups_are_factorised_by_themselves_and_depthwise_ones_not_at_all() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    made = conv_model(weight, group=2)
    [found] = look(made)[1]
    assert found.site.stage == Stage(3, 4, found.site.stage.window, groups=2)
    assert found.reading.layer is not None
    assert found.reading.layer.macs == weight.size * 6
    result = factorised(made, {"conv": ("tucker2", (2, 1))})
    groups = [next(a.i for a in n.attribute if a.name == "group") for n in result.graph.node]
    assert groups == [2, 2, 2]
    assert [tuple(t.dims) for t in result.graph.initializer if t.name != "b"] == [(4, 4, 1), (2, 2, 3), (6, 1, 1)]
    assert "depthwise" in reasons(conv_model(weight[:, :1], group=6))["conv"]


def test_a_fused_activation_stays_with_the_last_stage() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    made = fused_conv(weight)
    result = factorised(made, {"conv": ("tucker2", None)})
    assert [n.op_type for n in result.graph.node] == ["Conv", "Conv", "FusedConv"]
    x = np.random.default_rng(1).standard_normal((1, 4, 8)).astype(np.float32)
    [a], [b] = run(made, x=x), run(result, x=x)
    assert a.min() == 0.0
    assert np.allclose(a, b, atol=1e-5)


def fused_conv(weight: np.ndarray) -> onnx.ModelProto:
    made = conv_model(weight)
    made.graph.node[0].op_type, made.graph.node[0].domain = "FusedConv", "com.microsoft"
    made.graph.node[0].attribute.append(onnx.helper.make_attribute("activation", "Relu"))
    made.opset_import.add(domain="com.microsoft", version=1)
    return made


def test_the_last_stage_keeps_the_bias_and_the_middle_one_the_window() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    nodes = factorised(
        conv_model(weight, strides=[2], pads=[1, 1], dilations=[2]), {"conv": ("tucker2", (2, 3))}
    ).graph.node
    assert [len(node.input) for node in nodes] == [2, 2, 3]
    strides = [next(list(a.ints) for a in n.attribute if a.name == "strides") for n in nodes]
    assert strides == [[1], [2], [1]]
    assert [n.name for n in nodes] == ["conv/tucker2/0", "conv/tucker2/1", "conv"]


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16], ids=str)
def test_the_type_stays_what_it_is(dtype: type) -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(dtype)
    made = conv_model(weight, opset=22)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = made.graph.initializer[0].data_type
    result = factorised(made, {"conv": ("tucker1_out", (6,))})
    assert {t.data_type for t in result.graph.initializer} == {made.graph.initializer[0].data_type}
    x = np.random.default_rng(1).standard_normal((1, 4, 8)).astype(dtype)
    a, b = (ReferenceEvaluator(m).run(None, {"x": x})[0] for m in (made, result))  # onnxruntime has none of them
    assert relative(a, b) < float(ml_dtypes.finfo(dtype).eps) * 100


def test_an_empty_auto_pad_is_none() -> None:
    weight = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32)
    made = conv_model(weight, pads=[1, 1], auto_pad="")
    x = np.random.default_rng(1).standard_normal((1, 4, 8)).astype(np.float32)
    [a], [b] = run(made, x=x), run(factorised(made, {"conv": ("tucker2", None)}), x=x)
    assert np.allclose(a, b, atol=1e-5)


def test_empty_lists_of_attributes_are_left_out() -> None:
    made = fused_conv(np.random.default_rng(0).standard_normal((6, 4, 3)).astype(np.float32))
    made.graph.node[0].attribute.add(name="activation_params", type=onnx.AttributeProto.FLOATS)
    x = np.random.default_rng(1).standard_normal((1, 4, 8)).astype(np.float32)
    [a], [b] = run(made, x=x), run(factorised(made, {"conv": ("tucker2", None)}), x=x)
    assert np.allclose(a, b, atol=1e-5)


def test_a_free_size_that_is_too_small_leaves_only_the_counts_unknown() -> None:
    made = conv_model(np.random.default_rng(0).standard_normal((6, 4, 9)).astype(np.float32), size=[3])
    [found] = look(made)[1]
    assert found.is_site
    assert found.site.input_shape is None
    assert found.reading.layer is None
