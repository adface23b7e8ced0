from __future__ import annotations

import math

import numpy as np
import pytest
import scipy

from onnx_tucker.factor.sight import GRID, Affine, Curve, Sight

RNG = np.random.default_rng(0)
SIGHTS = [Sight(0.0), Sight(0.0, 1.0), Sight(-0.5, math.inf, (2, 3)), Sight(-0.5, 0.7, (6,)), Sight(window=(2, 3))]
SIGMOID, SWISH = Curve(scipy.special.expit(GRID)), Curve(GRID * scipy.special.expit(GRID))
SIGHTS += [
    Sight(curve=SIGMOID),
    Sight(-0.5, 0.7, (2, 3), SIGMOID),
    Sight(curve=SWISH),
    Sight(0.0, window=(6,), curve=SWISH),
]


@pytest.mark.parametrize("sight", SIGHTS, ids=str)
def test_the_derivative_is_that_of_what_is_seen(sight: Sight) -> None:
    outputs, step = RNG.standard_normal((2, 2, 50, sight.size, 4))
    change = RNG.standard_normal(sight.of(outputs).shape)
    up, down = (np.sum(sight.of(outputs + by * step) * change) for by in (1e-7, -1e-7))
    assert np.sum(sight.derivative(outputs, change) * step) == pytest.approx((up - down) / 2e-7, rel=1e-4)


def test_a_rectifier_sees_no_difference_below_its_bound() -> None:
    sight, y = Sight(0.0), np.array([-3.0, -1.0, 2.0]).reshape(3, 1, 1)
    assert np.array_equal(sight.of(y).ravel(), [0, 0, 2])
    assert np.array_equal(sight.derivative(y, np.ones((3, 1))).ravel(), [0, 0, 1])


def test_windows_of_one_value_are_no_other_case() -> None:
    rng = np.random.default_rng(0)
    outputs, change = rng.standard_normal((2, 5, 1, 3)), rng.standard_normal((2, 5, 3))
    twice = np.concatenate([outputs, outputs - 1], axis=-2)
    sight = Sight(-0.5, 0.5)
    assert np.array_equal(sight.derivative(twice, change)[..., :1, :], sight.derivative(outputs, change))


def test_a_curve_is_the_function_and_goes_on_straight() -> None:
    values = np.linspace(-3, 3, 1001)
    assert SIGMOID.of(values) == pytest.approx(scipy.special.expit(values), abs=1e-5)
    assert SWISH.of(np.array([-90.0, 90.0])) == pytest.approx([0, 90], abs=1e-9)
    assert SWISH.of(values.astype(np.float32)).dtype == np.float32
    assert (SIGMOID.rising, SWISH.rising) == (True, False)
    assert SIGMOID.steepest == pytest.approx(0.25, rel=1e-4)


def test_a_normalisation_is_of_each_channel_by_its_group() -> None:
    affine = Affine(np.arange(1.0, 7.0), np.full(6, 0.5))
    outputs = np.ones((2, 4, 3))
    assert np.array_equal(affine.of(outputs)[:, 0], [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]])
    assert np.array_equal(affine.scaled(outputs)[:, 3], [[1, 2, 3], [4, 5, 6]])


def test_what_is_no_number_stays_none() -> None:
    assert np.isnan(SWISH.of(np.array([np.nan]))).all()
    assert SWISH.of(np.array([np.inf])) == np.inf
    assert np.isfinite(SWISH.slope(np.array([np.nan, -np.inf]))).all()


def test_what_is_straight_is_seen_whole() -> None:
    assert Sight(curve=Curve(3 - 2 * GRID)).whole
    assert not Sight(curve=SIGMOID).whole
    assert not Sight(0.0, curve=Curve(3 - 2 * GRID)).whole
