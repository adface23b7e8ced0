from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.forms.toom_cook import POINTS, UNIT, algorithm

SIZES = [(m, r) for m in range(2, 8) for r in range(2, 8) if m + r - 2 <= len(POINTS)]


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_it_is_the_correlation_in_float64_and_close_in_float32(outputs: int, taps: int) -> None:
    rng = np.random.default_rng(0)
    data, kernel = rng.standard_normal((outputs + taps - 1, 500)), rng.standard_normal((taps, 500))
    exact = np.array([(data[i : i + taps] * kernel).sum(0) for i in range(outputs)])
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 2e-6)):
        a, g, b = (matrix.astype(dtype) for matrix in algorithm(outputs, taps))
        computed = a @ ((g @ kernel.astype(dtype)) * (b @ data.astype(dtype)))
        assert np.linalg.norm(computed - exact) < tolerance * np.linalg.norm(exact)


@pytest.mark.parametrize(("outputs", "taps"), SIZES)
def test_every_output_takes_the_product_at_one_once(outputs: int, taps: int) -> None:
    assert (algorithm(outputs, taps).output[:, UNIT] == 1).all()


@pytest.mark.parametrize(("outputs", "taps"), [(1, 3), (3, 1), (5, 5), (0, 2)])
def test_what_there_is_no_algorithm_for_is_refused(outputs: int, taps: int) -> None:
    with pytest.raises(ValueError, match="not known"):
        algorithm(outputs, taps)
