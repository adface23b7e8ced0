from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.axes import Axes
from onnx_tucker.types import Chain, Stage, Window

RNG = np.random.default_rng(0)
STAGE = Stage(5, 4, Window((3, 2, 2), (1,) * 3, (1,) * 3, (0,) * 6))


@pytest.mark.parametrize("name", METHODS)
def test_factors_amount_to_their_weight_and_have_its_derivatives(name: str) -> None:
    method = METHODS[name]
    stage = STAGE if method.on_kernel else Stage(5, 4, Window())
    ranks = tuple(2 for _ in method.modes)
    axes, stages = Axes(method, stage, ranks), method.stages(stage, ranks)
    factors = [RNG.standard_normal(part.shape) for part in stages]
    named = axes.named(factors)
    weight = axes.weight(named)
    assert np.allclose(weight.reshape(stage.shape), reconstruct(Chain(stages, tuple(factors))))
    assert all(np.array_equal(a, b) for a, b in zip(axes.shaped(named), factors, strict=True))
    change = RNG.standard_normal((5, weight[0].size))
    for i, derivative in enumerate(axes.derivatives(named, change)):
        step = RNG.standard_normal(named[i].shape)
        moved = axes.weight([f + step if j == i else f for j, f in enumerate(named)])  # linear in each factor
        assert np.sum(derivative * step) == pytest.approx(np.sum((moved - weight).reshape(5, -1) * change))
