"""What holds for every method of the registry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_tucker.factor import METHODS, Method, Spectra, reconstruct, weight_error
from onnx_tucker.types import Array, Stage, Window

KERNELS = [(), (1,), (3,), (2, 3), (1, 1, 1), (2, 3, 2)]

pytestmark = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def stage_of(shape: tuple[int, ...]) -> Stage:
    axes = len(shape) - 2
    return Stage(shape[0], shape[1], Window(shape[2:], (2,) * axes, (3,) * axes, (1,) * 2 * axes))


@st.composite
def weights(draw: st.DrawFn) -> Array:
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)), *draw(st.sampled_from(KERNELS)))
    return np.random.default_rng(draw(st.integers(0, 99))).standard_normal(shape)


@given(weight=weights())
def test_full_rank_reproduces_the_weight(method: Method, weight: Array) -> None:
    stage = stage_of(weight.shape)
    if method.applies(stage, by_name=True):
        chain = method.chain(weight, stage, method.dimensions(stage))
        assert np.allclose(reconstruct(chain), weight, atol=1e-10)


@given(weight=weights(), data=st.data())
def test_truncation_stays_below_the_bound(method: Method, weight: Array, data: st.DataObject) -> None:
    stage = stage_of(weight.shape)
    if method.applies(stage, by_name=True):
        ranks = tuple(data.draw(st.integers(1, full)) for full in method.dimensions(stage))
        chain = method.chain(weight, stage, ranks)
        assert [factor.shape for factor in chain.factors] == [part.shape for part in method.stages(stage, ranks)]
        assert weight_error(weight, chain) <= method.error_bound(Spectra(weight), ranks) + 1e-9


@given(shape=st.sampled_from([(4, 5), (4, 5, 3), (4, 5, 3, 2), (4, 5, 1, 1)]), data=st.data())
def test_the_window_moves_once(method: Method, shape: tuple[int, ...], data: st.DataObject) -> None:
    stage = stage_of(shape)
    if method.applies(stage, by_name=True):
        ranks = tuple(data.draw(st.integers(1, full)) for full in method.dimensions(stage))
        windows = [part.window for part in method.stages(stage, ranks)]
        size = (20,) * (len(shape) - 2)
        expected = stage.window.output_size(size)
        for window in windows:
            size = window.output_size(size)
        assert size == expected
        assert math.prod(math.prod(w.strides) for w in windows) == math.prod(stage.window.strides)


def test_the_result_does_not_depend_on_the_run(method: Method) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 6, 3) if method.on_kernel else (8, 6))
    stage = stage_of(weight.shape)
    ranks = (2,) * len(method.modes)
    first, second = (method.chain(weight, stage, ranks).factors for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_zero_weights_are_no_problem(method: Method) -> None:
    weight = np.zeros((4, 6, 3) if method.on_kernel else (4, 6))
    stage = stage_of(weight.shape)
    chain = method.chain(weight, stage, (2,) * len(method.modes))
    assert weight_error(weight, chain) == 0
