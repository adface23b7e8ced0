"""EVBMF: invariances, planted ranks, and the free energy minimised by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from onnx_tucker.rank.evbmf import evbmf_rank, observed_shape, x_threshold
from tests.helpers import Array

SHAPES = [(20, 60), (60, 20), (30, 30), (6, 500), (12, 13)]


def rank_of(matrix: Array) -> int:
    return evbmf_rank(np.linalg.svd(matrix, compute_uv=False), *observed_shape(matrix))


def planted(seed: int, rows: int, columns: int, rank: int, noise: float) -> Array:
    rng = np.random.default_rng(seed)
    signal = rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    return signal + noise * rng.standard_normal((rows, columns))


@given(
    seed=st.integers(0, 10_000),
    shape=st.sampled_from(SHAPES),
    rank=st.integers(0, 5),
    noise=st.floats(0.05, 3),
    scale=st.sampled_from([1e-6, 1e6, -1.0]),
)
def test_scaling_and_transposition_change_nothing(
    seed: int, shape: tuple[int, int], rank: int, noise: float, scale: float
) -> None:
    matrix = planted(seed, *shape, rank, noise)
    assert rank_of(matrix) == rank_of(matrix * scale) == rank_of(matrix.T)


@given(seed=st.integers(0, 10_000), shape=st.sampled_from(SHAPES), zeros=st.integers(1, 40))
def test_zero_rows_and_columns_change_nothing(seed: int, shape: tuple[int, int], zeros: int) -> None:
    matrix = planted(seed, *shape, 3, 0.5)
    wider = np.concatenate([matrix, np.zeros((len(matrix), zeros))], axis=1)
    taller = np.concatenate([np.zeros((zeros, matrix.shape[1])), matrix])
    assert rank_of(wider) == rank_of(taller) == rank_of(matrix)


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (30, 30), (40, 400)])
def test_a_planted_rank_is_recovered(shape: tuple[int, int]) -> None:
    for seed in range(100):
        rank = seed % 6
        assert rank_of(planted(seed, *shape, rank, 0.5)) == rank, (shape, seed)


@pytest.mark.parametrize(("rows", "columns"), [(5, 8), (8, 5), (1, 7), (9, 9)])
def test_edge_cases(rows: int, columns: int) -> None:
    assert rank_of(np.zeros((rows, columns))) == 0
    assert 0 <= rank_of(np.ones((rows, columns))) <= 1
    assert rank_of(np.eye(rows, columns)) == 0  # equal singular values are what noise looks like


def test_a_matrix_without_any_noise_has_its_algebraic_rank() -> None:
    assert rank_of(planted(0, 30, 50, 4, 0.0)) == 4


def test_tiny_weights_do_not_underflow() -> None:
    matrix = planted(0, 20, 60, 3, 0.3)
    assert rank_of(matrix * 1e-160) == rank_of(matrix) == 3


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 0.5, 1.0])
def test_the_threshold_is_near_the_published_approximation(alpha: float) -> None:
    tau = 2.5129 * math.sqrt(alpha)
    assert x_threshold(alpha) == pytest.approx((1 + tau) * (1 + alpha / tau), rel=0.02)


def component_energy(parameters: Array, gamma: float, rows: int, columns: int, variance: float) -> float:
    """Twice the variational free energy of one component, beyond that of an empty one.

    The posteriors of the two vectors are Gaussian along the singular direction with means a, b and variances s, t in
    every direction. The prior variances are those that minimise the energy: the mean squares of the posteriors.
    """
    a, b = parameters[:2]
    s, t = np.exp(np.clip(parameters[2:], -60, 60))
    square_a, square_b = a * a + columns * s, b * b + rows * t
    return float(
        columns * math.log(square_a / (columns * s))
        + rows * math.log(square_b / (rows * t))
        + (square_a * square_b - 2 * a * b * gamma) / variance
    )


def best_component(gamma: float, rows: int, columns: int, variance: float) -> float:
    """The least energy of a component that is not empty, by descent from several starts."""
    best = 0.0
    for share in (0.3, 0.95):
        mean, spread = math.sqrt(gamma * share), math.log(variance / gamma)
        start = np.array([mean, mean, spread, spread])
        arguments = (gamma, rows, columns, variance)
        found = minimize(component_energy, start, arguments, method="Nelder-Mead", options={"maxiter": 800})
        best = min(best, found.fun)
    return best


def brute_force_rank(matrix: Array) -> int:
    """Number of occupied components at the noise variance that minimises the total free energy over a grid."""
    rows, columns = matrix.shape
    values = np.linalg.svd(matrix, compute_uv=False)
    total = float(np.square(values).sum())
    best, rank = math.inf, -1
    for variance in np.geomspace(total / (rows * columns) / 300, total / (rows * columns), 20):
        energies = [best_component(g, rows, columns, variance) for g in values]
        energy = rows * columns * math.log(variance) + total / variance + sum(energies)
        if energy < best:
            best, rank = energy, sum(e < -1e-6 for e in energies)
    return rank


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "rows", "columns", "rank", "noise"),
    [(0, 4, 6, 1, 0.2), (1, 4, 6, 2, 0.1), (2, 5, 5, 1, 0.5), (3, 3, 9, 1, 0.3), (4, 4, 8, 0, 1.0), (5, 5, 7, 2, 0.2)],
)
def test_the_rank_is_the_one_of_the_least_free_energy(
    seed: int, rows: int, columns: int, rank: int, noise: float
) -> None:
    matrix = planted(seed, rows, columns, rank, noise)
    assert rank_of(matrix) == brute_force_rank(matrix)
