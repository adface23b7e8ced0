"""Rank of a noisy matrix by the global analytic solution of empirical variational Bayesian matrix factorisation.

Nakajima, Sugiyama, Babacan and Tomioka, "Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization", JMLR 14 (2013), and, for the closed form of the threshold, the free energy as a function of the noise
variance alone and the bounds of that variance, Nakajima, Tomioka, Sugiyama and Babacan, "Condition for Perfect
Dimensionality Recovery by Variational Bayesian PCA", JMLR 16 (2015). Both papers' notation: x = s^2 / (M variance)
for a singular value s of an L x M matrix, L <= M; alpha = L / M; Phi(z) = log(z + 1) / z - 1/2; the threshold of x is
(1 + tau)(1 + alpha / tau) at the root tau of Phi(tau) + Phi(tau / alpha).
"""

from __future__ import annotations

import math

import numpy as np
import scipy

from onnx_tucker.types import Array

GRID = 400
"""Points of the first, coarse search over the logarithm of the noise variance."""


def evbmf_rank(values: Array, rows: int, columns: int) -> int:
    """Number of singular values that stand above the noise; 0 if none does.

    The result does not change under scaling or transposition. Exact zeros among the values are no observation of
    noise only if the caller leaves out zero rows and columns, as `observed_shape` counts them.

    Args:
        values: all singular values of the matrix, descending, shape (min(rows, columns),).
        rows: rows of the matrix.
        columns: columns of the matrix.
    """
    short, long = min(rows, columns), max(rows, columns)
    values = np.asarray(values, np.float64)[:short]
    if short == 0 or values[0] <= 0:
        return 0
    # Scale first: squares of small weights underflow, and all tolerances below are relative to 1.
    energy = np.square(values / values[0])
    alpha = short / long
    threshold = x_threshold(alpha)
    ceiling = min(math.ceil(short / (1 + alpha)), short) - 1
    tail = energy[ceiling:]
    smallest = long * np.finfo(np.float64).eps ** 2 * short
    low = max(tail[0] / (long * threshold), tail.mean() / long, smallest / long)
    high = energy.sum() / (short * long)

    def free_energy(log_variance: Array) -> Array:
        x = energy[:, None] / (long * np.exp(log_variance))
        return np.asarray(short * log_variance + (x + _psi1(x, alpha, threshold)).sum(axis=0))

    if high <= low:
        variance = low
    else:
        grid = np.linspace(math.log(low), math.log(high), GRID)
        best = int(free_energy(grid).argmin())
        bracket = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, GRID - 1)])
        refined = scipy.optimize.minimize_scalar(
            lambda v: float(free_energy(np.array([v]))[0]), bounds=bracket, method="bounded", options={"xatol": 1e-9}
        )
        at_grid = free_energy(grid[best : best + 1])[0]
        variance = math.exp(refined.x if refined.fun < at_grid else grid[best])
    return int((energy > variance * long * threshold).sum())


def observed_shape(matrix: Array) -> tuple[int, int]:
    """Rows and columns of a matrix that are not all zero: pruned channels say nothing about the noise."""
    return int(matrix.any(axis=1).sum()), int(matrix.any(axis=0).sum())


def x_threshold(alpha: float) -> float:
    """The smallest x = s^2 / (long * variance) at which a component survives."""

    def excess(tau: float) -> float:
        return _phi(tau) + _phi(tau / alpha)

    # There is one root, and 2.5129 sqrt(alpha), the papers' approximation, is near it for every alpha in (0, 1].
    guess = 2.5129 * math.sqrt(alpha)
    tau = scipy.optimize.brentq(excess, guess / 4, guess * 4, xtol=1e-14)
    return float((1 + tau) * (1 + alpha / tau))


def _phi(z: float) -> float:
    return math.log1p(z) / z - 0.5


def _psi1(x: Array, alpha: float, threshold: float) -> Array:
    """What a surviving component adds to x - log x in the free energy; 0 below the threshold."""
    above = np.maximum(x, threshold)
    middle = above - (1 + alpha)
    tau = (middle + np.sqrt(np.square(middle) - 4 * alpha)) / 2
    gain = np.log1p(tau) + alpha * np.log1p(tau / alpha) - tau
    return np.where(x > threshold, gain, 0.0)
