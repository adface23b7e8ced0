from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor import METHODS, Spectra, weight_error
from onnx_tucker.types import Stage, Window

METHOD = METHODS["separable"]


def stage_of(*shape: int) -> Stage:
    axes = len(shape) - 2
    return Stage(*shape[:2], Window(shape[2:], (2,) * axes, (1,) * axes, tuple(range(2 * axes))))


def test_a_separable_kernel_is_found_and_the_predicted_error_is_exact() -> None:
    rng = np.random.default_rng(0)
    weight = np.einsum("rihw,ort->oithw", rng.standard_normal((4, 5, 3, 3)), rng.standard_normal((6, 4, 3)))
    chain = METHOD.chain(weight, stage_of(*weight.shape), (4,))
    assert weight_error(weight, chain) < 1e-12
    noisy = weight + 0.1 * rng.standard_normal(weight.shape)
    error = weight_error(noisy, METHOD.chain(noisy, stage_of(*weight.shape), (4,)))
    assert error == pytest.approx(METHOD.error_bound(Spectra(noisy), (4,)))


def test_each_stage_has_the_window_of_its_own_axes() -> None:
    later, first = METHOD.stages(stage_of(6, 5, 3, 7, 7), (4,))
    assert (later.shape, first.shape) == ((4, 5, 1, 7, 7), (6, 4, 3, 1, 1))
    assert (later.window.strides, first.window.strides) == ((1, 2, 2), (2, 1, 1))
    assert (later.window.pads, first.window.pads) == ((0, 1, 2, 0, 4, 5), (0, 0, 0, 3, 0, 0))


def test_one_axis_cannot_be_separated() -> None:
    assert not METHOD.applies(stage_of(8, 8, 9), by_name=True)
    assert not METHOD.applies(stage_of(8, 8, 1, 3, 1), by_name=True)
    assert METHOD.applies(stage_of(8, 8, 1, 3, 3))
