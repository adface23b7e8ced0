"""Arrays as one vector."""

from __future__ import annotations

import numpy as np

from onnx_tucker.factor.scaled import Scaled


def test_values_are_in_units_of_their_arrays() -> None:
    parts = [np.full((2, 3), 5.0), np.zeros(4), np.array([-0.1, 0.1])]
    scaled = Scaled(parts)
    assert np.allclose(scaled.start, [1] * 6 + [0] * 4 + [-1, 1])
    for part, again in zip(parts, scaled.parts(scaled.start), strict=True):
        assert np.allclose(part, again)
    assert np.allclose(scaled.derivatives([np.ones((2, 3)), np.ones(4), np.ones(2)]), [5] * 6 + [1] * 4 + [0.1] * 2)
    assert not Scaled([]).start.size
