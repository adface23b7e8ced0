from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor import METHODS, Spectra, reconstruct
from onnx_tucker.factor.fit import Goal, fit
from onnx_tucker.factor.metric import Dense
from onnx_tucker.factor.weighted import Weighted
from onnx_tucker.types import Array, Stage, Window

RNG = np.random.default_rng(0)
STAGE = Stage(7, 6, Window((3,), (1,), (1,), (0, 0)))
WEIGHT = RNG.standard_normal(STAGE.shape)


def moment(width: int = 18) -> Dense:
    rows = RNG.standard_normal((100, width)) @ np.diag(np.logspace(0, -1, width))
    return Dense(rows.T @ rows / 100)


def goal(metric: Dense, influence: Array | None = None) -> Goal:
    return Goal(WEIGHT.reshape(7, 6, 3), metric, influence)


def test_with_inputs_alike_they_are_those_of_the_weight() -> None:
    plain, weighted = Spectra(WEIGHT), Weighted(WEIGHT, [goal(Dense(np.eye(18)))])
    for mode in ("in", "out", "kernel"):
        assert np.allclose(plain.of(mode), weighted.of(mode))


@pytest.mark.parametrize("out", [5, 18, 30])
def test_of_many_outputs_those_that_inputs_reach_count(out: int) -> None:
    weight, metric = RNG.standard_normal((out, 6, 3)), moment()
    matrix = weight.reshape(out, -1)
    exact = np.linalg.eigvalsh(matrix @ metric.moment @ matrix.T)[::-1]
    assert np.allclose(Weighted(weight, [goal(metric)]).of("out") ** 2, exact, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_error_of_an_output_basis_is_the_one_that_the_fit_reaches(rank: int) -> None:
    metric, method = moment(), METHODS["tucker1_out"]
    for influence in (None, moment(7).moment):
        one = goal(metric, influence)
        lost = one.loss(reconstruct(fit(method, STAGE, (rank,), [one])))
        share = lost / one.loss(np.zeros_like(one.target))
        assert method.error_bound(Weighted(WEIGHT, [one]), (rank,)) == pytest.approx(share**0.5)
