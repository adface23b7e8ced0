from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from onnx_tucker.types import Stage
from tests.helpers import factorised, look, model, reasons, run

WEIGHT = np.random.default_rng(0).standard_normal((8, 3, 2, 4)).astype(np.float32)


def up(group: int = 2, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "up", group=group, strides=[2, 1], **attributes)
    bias = np.linspace(-1, 1, 3 * group, dtype=np.float32)
    return model([node], {"w": WEIGHT, "b": bias}, {"x": [1, 8, 5, 6]}, {"y": 4})


def test_reading() -> None:
    [found] = look(up())[1]
    assert found.site.stage == Stage(3, 4, found.site.stage.window, groups=2)
    assert found.site.stage.window.output_size((5, 6)) == (10, 9)
    # Output channels come first in the canonical layout, group by group.
    assert np.array_equal(found.site.read()[3:], WEIGHT[4:].swapaxes(0, 1))
    assert found.reading.layer is not None
    assert found.reading.layer.macs == 5 * 6 * WEIGHT.size


def test_the_core_keeps_the_kernel_and_the_rest_is_pointwise() -> None:
    made = up(output_padding=[1, 0])
    result = factorised(made, {"up": ("tucker2", (2, 2))})
    assert [node.op_type for node in result.graph.node] == ["Conv", "ConvTranspose", "Conv"]
    shapes = [tuple(t.dims) for t in result.graph.initializer if t.name != "b"]
    assert shapes == [(4, 4, 1, 1), (4, 2, 2, 4), (6, 2, 1, 1)]
    x = np.random.default_rng(1).standard_normal((1, 8, 5, 6)).astype(np.float32)
    full = factorised(made, {"up": ("tucker2", None)})
    assert np.allclose(run(made, x=x)[0], run(full, x=x)[0], atol=1e-5)


def test_depthwise_ones_are_skipped() -> None:
    assert "depthwise" in reasons(up(group=8))["up"]


def test_the_size_that_stays_the_same_is_no_larger_than_the_kernel_reaches() -> None:
    """As onnxruntime has it."""
    for kernel, stride, length in ((1, 2, 7), (3, 2, 7), (2, 3, 5), (4, 2, 6)):
        node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", auto_pad="SAME_UPPER", strides=[stride])
        made = model([node], {"w": np.ones((2, 3, kernel), np.float32)}, {"x": [1, 2, length]}, {"y": 3})
        [found] = look(made)[1]
        expected = run(made, x=np.ones((1, 2, length), np.float32))[0].shape[2:]
        assert found.site.stage.window.output_size((length,)) == expected


def test_an_output_smaller_than_the_input_is_skipped() -> None:
    """As onnx infers a wrong shape for it, by which the stages behind it do not run."""
    assert "output_shape" in reasons(up(output_shape=[4, 6]))["up"]
    assert run(up(output_shape=[4, 6]), x=np.ones((1, 8, 5, 6), np.float32))[0].shape == (1, 6, 4, 6)
