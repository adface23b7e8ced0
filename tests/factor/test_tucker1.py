from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor import METHODS, Spectra, weight_error
from onnx_tucker.types import Stage, Window


@pytest.mark.parametrize("name", ["tucker1_in", "tucker1_out"])
def test_the_predicted_error_is_exact(name: str) -> None:
    weight = np.random.default_rng(0).standard_normal((9, 7, 3, 2))
    method = METHODS[name]
    stage = Stage(9, 7, Window((3, 2), (1, 1), (1, 1), (0,) * 4))
    error = weight_error(weight, method.chain(weight, stage, (3,)))
    assert error == pytest.approx(method.error_bound(Spectra(weight), (3,)))
