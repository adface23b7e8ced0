"""Second moments as matrices and as rows say the same."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor import METHODS
from onnx_tucker.factor.axes import Axes
from onnx_tucker.factor.metric import Dense, Metric, Product, Sampled
from onnx_tucker.types import Array, Stage, Window

RNG = np.random.default_rng(0)
INP, VOLUME = 6, 5
WIDTH = INP * VOLUME


def both(count: int, volume: int = VOLUME, *, central: bool = False) -> tuple[Sampled, Dense]:
    """The same second moment, of few rows or of many."""
    rows = RNG.standard_normal((count, INP * volume)) + 1
    sampled = Sampled(rows, 0.03, 0.7, central)
    return sampled, Dense(sampled.times(np.eye(INP * volume)))


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("orthonormal", [False, True])
@pytest.mark.parametrize("count", [4, 100])
def test_what_is_solved_is_the_moment_of_what_patches_become(count: int, orthonormal: bool, central: bool) -> None:
    basis: Array = RNG.standard_normal((3, INP))
    if orthonormal:
        basis = np.linalg.qr(basis.T)[0].T
    product = Product(["ai"], [basis], "ak", {"i": INP, "k": VOLUME})
    assert product.orthonormal == orthonormal
    right = RNG.standard_normal((3 * VOLUME, 2))
    metrics: tuple[Metric, Metric] = both(count, central=central)
    for metric in metrics:
        assert np.allclose(metric.through(product) @ metric.solve(product, right), right, atol=1e-6)
    assert np.allclose(*(metric.solve(product, right) for metric in metrics), rtol=1e-5)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_pull_is_that_on_the_product(method: str, central: bool) -> None:
    kernel = () if method == "svd" else (3, 2, 1)
    n = len(kernel)
    stage = Stage(4, INP, Window(kernel, (1,) * n, (1,) * n, (0,) * 2 * n))
    assert METHODS[method].applies(stage, by_name=True)
    axes = Axes(METHODS[method], stage, tuple(min(2, size) for size in METHODS[method].dimensions(stage)))
    factors = [RNG.standard_normal([axes.sizes[c] for c in term]) for term in axes.terms]
    metrics: tuple[Metric, Metric] = both(7, stage.window.volume, central=central)
    for number in range(len(factors)):
        outputs = metrics[1].times(axes.weight(factors).reshape(stage.out, -1))
        exact = axes.derivatives(factors, outputs)[number]
        for metric in metrics:
            assert np.allclose(metric.pull(axes.terms, factors, number, axes.whole), exact)


def test_products_of_several_factors_are_not_orthonormal() -> None:
    one, other = (np.linalg.qr(RNG.standard_normal((n, n)))[0] for n in (INP, VOLUME))
    patch = {"i": INP, "k": VOLUME}
    assert not Product(["ai", "bk"], [one, other], "ab", patch).orthonormal
    assert Product(["aik"], [np.eye(WIDTH)[:4].reshape(4, INP, VOLUME)], "a", patch).orthonormal


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize(("count", "volume"), [(3, 1), (50, 1), (3, VOLUME)])
def test_roots_are_those_of_the_channels(count: int, volume: int, central: bool) -> None:
    metrics: tuple[Metric, Metric] = both(count, volume, central=central)
    for metric in metrics:
        half, inverse = (root.times(np.eye(INP), 0) for root in metric.roots(INP))
        assert np.allclose(half @ half, metric.channels(INP))
        assert np.allclose(half @ inverse, np.eye(INP), atol=1e-6)
    array = RNG.standard_normal((2, INP, 3))
    [half, _], [other, _] = (metric.roots(INP) for metric in metrics)
    assert np.allclose(half.times(array, 1), other.times(array, 1))
    assert np.allclose(half.times(array, 1), np.einsum("aib,ij->ajb", array, half.times(np.eye(INP), 0)))
