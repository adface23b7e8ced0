from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnx_tucker.factor.metric import Product
from onnx_tucker.factor.moments import Moments
from onnx_tucker.factor.regression import Statistics
from onnx_tucker.factor.samples import Samples, joined
from onnx_tucker.types import Array, Stage, Window

STAGE = Stage(4, 3, Window((2,), (1,), (1,), (0, 0)), groups=2)
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal(STAGE.shape)


def rows(count: int, weight: Array = WEIGHT, shift: float = 0.0, noise: float = 0.0) -> tuple[Array, Array]:
    """Patches, and the outputs of a weight on them."""
    p = RNG.standard_normal((count, 2, 6)) + 1
    y = np.einsum("god,ngd->ngo", weight.reshape(2, 4, 6), p) + shift
    return p, y + noise * RNG.standard_normal(y.shape)


def moments(p: Array, y: Array, kind: type[Moments] | type[Samples] = Moments) -> Statistics:
    made = kind.none(STAGE)
    assert made.add(p, y) == 0
    return made


@pytest.mark.parametrize("bias", [False, True])
def test_the_goal_is_the_weight_that_makes_the_outputs(bias: bool) -> None:
    other = RNG.standard_normal(STAGE.shape)
    targets = moments(*rows(500, other, shift=3.0 if bias else 0.0)).targets(WEIGHT, 1e-12, bias=bias)
    assert np.allclose(np.concatenate(targets), other.reshape(8, 3, 2))


def test_without_rows_or_with_a_strong_ridge_it_is_the_trained_weight() -> None:
    trained = WEIGHT.reshape(8, 3, 2)
    for made, strength in ((Moments.none(STAGE), 1e-3), (moments(*rows(50, 2 * WEIGHT)), 1e9)):
        assert np.allclose(np.concatenate(made.targets(WEIGHT, strength, bias=True)), trained)


def test_the_bias_makes_the_means_right() -> None:
    p, y = rows(100, shift=3.0)
    assert np.allclose(moments(p, y).bias(WEIGHT), 3.0)
    assert np.allclose(moments(p, y).bias(0 * WEIGHT), y.mean(0).ravel())


def test_sums_do_not_depend_on_batches() -> None:
    p, y = rows(100)
    parts = moments(p[:30], y[:30]) + moments(p[30:], y[30:])
    whole = moments(p, y)
    assert parts.rows == whole.rows == 100
    for name in ("patch", "output", "squared", "crossed"):
        assert np.allclose(getattr(parts, name), getattr(whole, name))


def test_rows_that_are_not_finite_are_left_out() -> None:
    p, y = rows(5)
    expected = moments(p[3:], y[3:])
    p[0, 1, 2], p[1, 0, 0], y[2, 0, 0] = np.nan, np.inf, -np.inf
    made = Moments.none(STAGE)
    assert made.add(p, y) == 3
    assert np.allclose(made.squared, expected.squared)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", [Moments, Samples])
def test_rows_that_are_all_the_same_say_nothing_about_their_mean(
    kind: type[Moments] | type[Samples], seed: int
) -> None:
    """Of which rounding may make less than nothing."""
    row = 1e3 * np.random.default_rng(seed).standard_normal((1, 2, 6))
    known = moments(np.repeat(row, 5, axis=0), np.zeros((5, 2, 4)), kind)
    targets = known.targets(WEIGHT, 0.1, bias=True)
    assert np.allclose(np.concatenate(targets), WEIGHT.reshape(8, 3, 2), atol=1e-3)
    for goal in known.goals(targets, bias=True):
        assert all(np.isfinite(root.vectors).all() and np.isfinite(root.values).all() for root in goal.metric.roots(3))


@pytest.mark.parametrize("bias", [False, True])
def test_rows_and_their_moments_say_the_same(bias: bool) -> None:
    """Also about fewer rows than inputs, which leave the moments singular."""
    for count in (4, 50):
        p, y = rows(count, 1.5 * WEIGHT, noise=0.5)
        one, other = (moments(p[:2], y[:2], kind) + moments(p[2:], y[2:], kind) for kind in (Moments, Samples))
        assert one.rows == other.rows == count
        assert np.allclose(one.bias(WEIGHT), other.bias(WEIGHT))
        targets = [known.targets(WEIGHT, 0.1, bias=bias) for known in (one, other)]
        assert np.allclose(*targets)
        pairs = zip(*(known.goals(t, bias=bias) for known, t in zip((one, other), targets, strict=True)), strict=True)
        some = RNG.standard_normal((3, 6))
        for a, b in pairs:
            assert np.allclose(a.metric.times(some), b.metric.times(some))
            assert np.allclose(a.metric.channels(3), b.metric.channels(3))
            product = Product(["ri"], [RNG.standard_normal((4, 3))], "rk", {"i": 3, "k": 2})
            dense = np.einsum("ri,kK->rkiK", product.factors[0], np.eye(2)).reshape(8, 6)
            for metric in (a.metric, b.metric):
                assert np.allclose(metric.through(product), metric.times(dense) @ dense.T)
        zero, own = [np.zeros((4, 3, 2))] * 2, np.split(WEIGHT, 2)
        differences = [known.loss(own, bias=bias) - known.loss(zero, bias=bias) for known in (one, other)]
        assert differences[0] == pytest.approx(differences[1])
        given = np.concatenate([p[:, g] @ w.reshape(4, -1).T for g, w in enumerate(own)], axis=1)
        expected = np.square(given - bias * given.mean(axis=0)).sum() / count
        assert [known.squares(own, bias=bias) for known in (one, other)] == pytest.approx([expected] * 2)


@pytest.mark.parametrize("count", [5, 9])
@pytest.mark.parametrize("kinds", [(Samples, Samples), (Samples, Moments), (Moments, Samples)])
def test_what_is_known_of_halves_is_that_of_the_whole(
    count: int, kinds: Sequence[type[Moments] | type[Samples]]
) -> None:
    """Of more rows than one sees values their moments are kept."""
    p, y = rows(count, 1.5 * WEIGHT, noise=0.5)
    whole = moments(p, y, Samples).targets(WEIGHT, 0.1, bias=True)
    parts = (slice(4), slice(4, None))
    halves = [moments(p[part], y[part], kind) for part, kind in zip(parts, kinds, strict=True)]
    for half in halves:
        half.targets(WEIGHT, 0.1, bias=True)
    both = joined(*halves)
    assert isinstance(both, Samples) == (count == 5 and kinds == (Samples, Samples))
    assert both.rows == count
    assert np.allclose(both.targets(WEIGHT, 0.1, bias=True), whole)


@pytest.mark.parametrize("kind", [Moments, Samples])
def test_sums_of_outputs_are_outputs(kind: type[Moments] | type[Samples]) -> None:
    p, y = rows(5, 1.5 * WEIGHT, noise=0.5)
    mixture = RNG.standard_normal((3, 4))
    found = moments(p, y, kind).mixed(mixture).targets(np.zeros((6, 3, 2)), 0.1, bias=True)
    wanted = moments(p, y, kind).targets(np.zeros_like(WEIGHT), 0.1, bias=True)
    assert np.allclose(found, np.einsum("so,goik->gsik", mixture, wanted))
