from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor import METHODS, Spectra, weight_error
from onnx_tucker.types import Stage, Window


@pytest.mark.parametrize("shape", [(9, 30), (30, 9), (8, 8), (6, 10, 1, 1)])
def test_it_is_the_best_approximation_of_its_rank(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).standard_normal(shape)
    axes = len(shape) - 2
    stage = Stage(*shape[:2], Window(shape[2:], (1,) * axes, (1,) * axes, (0,) * 2 * axes))
    values = np.linalg.svd(weight.reshape(shape[:2]), compute_uv=False)
    best = np.linalg.norm(values[4:]) / np.linalg.norm(values)
    assert weight_error(weight, METHODS["svd"].chain(weight, stage, (4,))) == pytest.approx(best)
    assert METHODS["svd"].error_bound(Spectra(weight), (4,)) == pytest.approx(best)
