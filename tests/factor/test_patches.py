from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from onnx_tucker.factor.patches import count, cut, draw, gathered, outputs, patches, spread
from onnx_tucker.types import Array, Stage, Window
from tests.helpers import model, run


@pytest.mark.parametrize("transposed", [False, True])
@given(data=st.data())
@settings(max_examples=40)
def test_the_weight_times_patches_is_the_output(data: st.DataObject, transposed: bool) -> None:
    axes, groups = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))

    def each(low: int, high: int, number: int = axes) -> tuple[int, ...]:
        return tuple(data.draw(st.lists(st.integers(low, high), min_size=number, max_size=number)))

    window = Window(each(1, 3), each(1, 2), each(1, 2), each(0, 1, 2 * axes))
    if transposed:
        window = replace(window, transposed=True, output_padding=tuple(s - 1 for s in window.strides))
    stage = Stage(2, 3, window, groups)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(stage.shape).astype(np.float32)
    x = rng.standard_normal((2, groups * 3, *[6] * axes)).astype(np.float32)
    y = output(stage, weight, x)
    rows = rng.permutation(count(y.shape))[:20]
    seen = patches(stage, x, rows).astype(np.float64)
    product = np.einsum("god,ngd->ngo", weight.reshape(groups, 2, -1), seen)
    assert np.allclose(product, outputs(stage, y, rows), atol=1e-4)


def output(stage: Stage, weight: Array, x: Array) -> Array:
    """What onnxruntime computes for the layer."""
    window = stage.window
    stored, op = weight, "Conv"
    if window.transposed:  # (groups * out, in, *kernel) to (groups * in, out, *kernel)
        split = weight.reshape(stage.groups, stage.out, stage.inp, *window.kernel)
        stored, op = split.swapaxes(1, 2).reshape(-1, stage.out, *window.kernel), "ConvTranspose"
    geometry = {"strides": window.strides, "dilations": window.dilations, "pads": window.pads, "group": stage.groups}
    if window.transposed:
        geometry["output_padding"] = window.output_padding
    node = helper.make_node(op, ["x", "w"], ["y"], **geometry)
    made = model([node], {"w": stored}, {"x": list(x.shape)}, {"y": x.ndim})
    return run(made, x=x)[0]


def test_a_matrix_product_sees_its_vectors() -> None:
    stage = Stage(4, 3, Window())
    x = np.arange(15.0).reshape(5, 3)
    assert np.array_equal(patches(stage, x, np.array([3, 1])), x[[3, 1]][:, None])
    assert np.array_equal(outputs(Stage(3, 1, Window()), x, np.array([2])), x[[2]][:, None])
    assert count(x.shape) == 5


def test_whole_windows_are_drawn_and_none_twice() -> None:
    y = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
    rows = draw(y.shape, (2, 2), 100, np.random.default_rng(0))
    assert rows.shape == (2 * 2 * 2, 4)
    assert len(set(rows.ravel().tolist())) == rows.size
    sample, i, j = np.unravel_index(rows, (2, 5, 4))
    for position in (sample, i // 2, j // 2):
        assert np.array_equal(position, np.broadcast_to(position[:, :1], position.shape))
    assert i.max() == 3
    assert draw(y.shape, (), 7, np.random.default_rng(0)).shape == (7, 1)
    assert draw((6, 3), (), 7, np.random.default_rng(0)).shape == (6, 1)
    assert draw(y.shape, (6, 1), 7, np.random.default_rng(0)).shape == (0, 6)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("lengths", [(), (2, 2), (3, 1)])
@given(data=st.data())
@settings(max_examples=30)
def test_parts_of_the_input_hold_the_patches_of_windows(
    data: st.DataObject, lengths: tuple[int, ...], transposed: bool
) -> None:
    kernel, strides, dilations = (data.draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(3))
    window = Window(kernel, strides, dilations, data.draw(st.tuples(*[st.integers(0, 2)] * 4)))
    if transposed:
        window = replace(window, transposed=True, output_padding=(0, 0))
    stage, rng = Stage(2, 3, window, 2), np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 12, 12)).astype(np.float32)
    y = np.zeros((2, 4, *window.output_size((12, 12))))
    rows = draw(y.shape, lengths, 7, rng)
    assume(len(rows))  # no pool is larger than its input
    layer, parts = cut(stage, x, lengths, rows)
    seen = patches(stage, x, rows.ravel()).swapaxes(0, 1)
    weight, reach = rng.standard_normal((2, 2, seen.shape[2])).astype(np.float32), parts.shape[2:]
    by_group = parts.reshape(len(parts), 2, -1).swapaxes(0, 1)
    given = (by_group @ spread(layer, weight, reach).swapaxes(1, 2)).reshape(2, -1, 2)
    assert np.allclose(given, seen @ weight.swapaxes(1, 2), atol=1e-4)
    change = rng.standard_normal(given.shape).astype(np.float32)
    spread_change = change.reshape(*by_group.shape[:2], -1).swapaxes(1, 2) @ by_group
    assert np.allclose(gathered(layer, spread_change, reach), change.swapaxes(1, 2) @ seen, atol=1e-3)
    assert parts.size <= rows.size * 6 * window.volume
    if lengths == (2, 2) and not transposed and strides == dilations == (1, 1) and kernel == (3, 3):
        assert parts.shape[2:] == (4, 4)


@pytest.mark.parametrize(("out", "whole"), [(8, True), (512, False)])
def test_windows_of_wide_layers_are_taken_apart(out: int, whole: bool) -> None:
    stage, x = Stage(out, 2, Window((3, 3), (1, 1), (1, 1), (0, 0, 0, 0))), np.zeros((1, 2, 8, 8), np.float32)
    rows = draw((1, out, 6, 6), (2, 2), 5, np.random.default_rng(0))
    layer, parts = cut(stage, x, (2, 2), rows)
    assert parts.shape == ((5, 2, 4, 4) if whole else (20, 18))
    assert layer.shape == ((out, 2, 3, 3) if whole else (out, 18))
