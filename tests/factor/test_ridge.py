from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor.moments import Moments
from onnx_tucker.factor.ridge import RIDGES, agreement, best, foreseen, ridge
from onnx_tucker.types import Array, Stage, Window

STAGE = Stage(4, 6, Window((), (), (), ()))
RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal(STAGE.shape)


def halves(count: int, weight: Array, noise: float = 0.0) -> list[Moments]:
    """What is known of so many rows, twice, whose outputs are those of a weight."""
    made = [Moments.none(STAGE), Moments.none(STAGE)]
    for half in made:
        p = RNG.standard_normal((count, 1, 6)) + 1
        half.add(p, p @ weight.T + noise * RNG.standard_normal((count, 1, 4)))
    return made


def test_it_is_weak_where_rows_are_many_and_strong_where_they_mislead() -> None:
    assert ridge(*halves(400, 1.5 * WEIGHT), WEIGHT, bias=True) == RIDGES[-1]
    assert ridge(*halves(4, WEIGHT, noise=1.0), WEIGHT, bias=True) > 0.01


def test_little_is_made_of_what_hardly_varies() -> None:
    """An input that tells all but is a thousandth of the others would have weights that no rounding leaves right."""
    scale, made = np.array([1.0, 1, 1, 1, 1, 1e-3]), [Moments.none(STAGE), Moments.none(STAGE)]
    for half in made:
        p = RNG.standard_normal((4000, 1, 6))
        half.add(p * scale, p @ WEIGHT.T)
    found = made[0].targets(WEIGHT, ridge(*made, WEIGHT, bias=True), bias=True)[0]
    assert np.linalg.norm(WEIGHT[:, 5]) < np.linalg.norm(found[:, 5]) < 2 * np.linalg.norm(WEIGHT)


def test_what_all_samples_will_miss_is_foreseen_from_halves() -> None:
    """Nearer than what the weight of one half misses of the other, which is from half the samples."""
    best_ = [WEIGHT.reshape(4, 6, 1)]
    told, halved, true = [], [], []
    others = halves(20_000, WEIGHT, noise=1.0)[0]
    for _ in range(50):
        one, other = halves(40, WEIGHT, noise=1.0)
        weights = [half.targets(0 * WEIGHT, 1e-5, bias=True) for half in (one, other)]
        least = one.loss(best_, bias=True) + other.loss(best_, bias=True)
        told.append(foreseen((one, other), weights, bias=True) - least)
        halved.append(other.loss(weights[0], bias=True) + one.loss(weights[1], bias=True) - least)
        whole = (one + other).targets(0 * WEIGHT, 1e-5, bias=True)
        true.append(2 * (others.loss(whole, bias=True) - others.loss(best_, bias=True)))
    assert abs(np.mean(told) - np.mean(true)) < 0.2 * abs(np.mean(halved) - np.mean(true))


def test_it_is_found_between_those_that_are_tried() -> None:
    """The fewer are tried, the more: about where all of them have it."""
    known = halves(12, 1.2 * WEIGHT, noise=1.0)
    fine = ridge(*known, WEIGHT, bias=True, among=[float(r) for r in np.geomspace(1e4, 1e-5, 200)])
    coarse = ridge(*known, WEIGHT, bias=True, among=RIDGES[::2])
    assert coarse not in RIDGES
    assert 0.2 < coarse / fine < 5


def test_of_many_outputs_sums_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In groups too."""
    stage, made = Stage(400, 6, Window((), (), (), ()), 2), list[Moments]()
    weight = RNG.standard_normal(stage.shape)
    for _ in range(2):
        made.append(Moments.none(stage))
        p = RNG.standard_normal((10, 2, 6))
        y = np.einsum("rgi,goi->rgo", p, 1.2 * weight.reshape(2, 400, 6)) + RNG.standard_normal((10, 2, 400))
        made[-1].add(p, y)
    found = ridge(*made, weight, bias=True, groups=2)
    assert found not in RIDGES
    monkeypatch.setattr("onnx_tucker.factor.ridge.SUMS", 400)
    assert found == pytest.approx(ridge(*made, weight, bias=True, groups=2), rel=0.1)


def test_halves_that_agree_are_taken_whole_and_others_not_at_all() -> None:
    one = RNG.standard_normal(9)
    assert agreement(one, one) == 1
    assert agreement(one, -one) == agreement(0 * one, 0 * one) == 0
    assert 0 < agreement(one, one + 2 * RNG.standard_normal(9)) < 1


def test_the_best_is_looked_for_up_to_the_first_that_is_worse() -> None:
    loss = {1: 3.0, 2: 2.0, 3: 2.0, 4: 2.5, 5: 0.0}
    assert best(list(loss), loss.__getitem__) == 2
    assert best([1, 2], {1: 1.0, 2: float("nan")}.__getitem__) == 1
