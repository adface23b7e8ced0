from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_tucker.factor.sight import Sight

RNG = np.random.default_rng(0)
SIGHTS = [Sight(0.0), Sight(0.0, 1.0), Sight(-0.5, math.inf, (2, 3)), Sight(-0.5, 0.7, (6,)), Sight(window=(2, 3))]


@pytest.mark.parametrize("sight", SIGHTS, ids=str)
def test_the_nearest_outputs_look_as_wanted_and_none_nearer_do(sight: Sight) -> None:
    outputs, wanted, other = RNG.standard_normal((3, 2, 50, sight.size, 4))
    seen = sight.of(wanted)
    nearest = sight.nearest(outputs, seen)
    assert np.allclose(sight.of(nearest), seen)

    def distance(to: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(outputs - to).sum(2))

    for alike in (wanted, sight.nearest(other, seen), sight.nearest(wanted - 1, seen)):
        assert np.all(distance(nearest) <= distance(alike) + 1e-12)
    assert np.allclose(sight.nearest(wanted, seen), wanted)


def test_a_rectifier_sees_no_difference_below_its_bound() -> None:
    sight, y = Sight(0.0), np.array([-3.0, -1.0, 2.0]).reshape(3, 1, 1)
    assert np.array_equal(sight.of(y).ravel(), [0, 0, 2])
    assert np.array_equal(sight.nearest(np.array([-1.0, 1.0, -1.0]).reshape(3, 1, 1), sight.of(y)).ravel(), [-1, 0, 2])
