"""One point of each curve, within limits."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_tucker.rank.lagrange import Numbers, Picks, choose

curves = st.lists(
    st.lists(st.tuples(st.floats(1, 100), st.floats(1, 100), st.floats(0, 100)), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


def arrays(made: list[list[tuple[float, float, float]]], quantities: int) -> tuple[list[Numbers], list[Numbers]]:
    errors = [np.array([error for *_, error in points]) for points in made]
    return errors, [np.array([costs[:quantities] for *costs, _ in points]) for points in made]


def total(parts: list[Numbers], picks: tuple[int, ...] | Picks) -> Numbers:
    return np.asarray(sum(part[i] for part, i in zip(parts, picks, strict=True)))


@given(curves, st.floats(0, 400))
@settings(max_examples=200)
def test_the_limit_is_held_and_no_single_step_within_it_is_better(
    made: list[list[tuple[float, float, float]]], limit: float
) -> None:
    errors, costs = arrays(made, 1)
    chosen = choose(errors, costs, np.array([limit]))
    if chosen is None:
        assert sum(cost.min() for cost in costs) > limit
        return
    assert total(costs, chosen) <= limit * (1 + 1e-9)
    for i, points in enumerate(errors):
        for j, error in enumerate(points):
            moved = [*chosen[:i], j, *chosen[i + 1 :]]
            assert error >= points[chosen[i]] or total(costs, moved) > limit


@given(curves, st.floats(0, 400), st.floats(0, 400))
@settings(max_examples=200)
def test_several_limits_are_all_held(made: list[list[tuple[float, float, float]]], first: float, second: float) -> None:
    errors, costs = arrays(made, 2)
    limits = np.array([first, second])
    chosen = choose(errors, costs, limits)
    if chosen is None:  # then no point of each can be the least of both costs and within the limits
        assert not (sum(part.min(axis=0) for part in costs) <= limits).all() or any(
            (part > part.min(axis=0)).any(axis=1).all() for part in costs
        )
    else:
        assert (total(costs, chosen) <= limits * (1 + 1e-9)).all()


def test_two_limits_come_close_to_the_best_of_all_combinations() -> None:
    rng = np.random.default_rng(0)
    ratios = []
    for _ in range(30):
        errors = [np.sort(rng.exponential(size=6)) for _ in range(4)]
        costs = [np.stack([np.sort(rng.uniform(1, 9, 6))[::-1], rng.uniform(1, 9, 6)], axis=1) for _ in range(4)]
        limits = np.array([20.0, 20.0])
        every = itertools.product(range(6), repeat=4)
        best = min((float(total(errors, p)) for p in every if (total(costs, p) <= limits).all()), default=None)
        chosen = choose(errors, costs, limits)
        if best is not None and chosen is not None:
            ratios.append(float(total(errors, chosen)) / best)
    assert len(ratios) >= 20
    assert np.median(ratios) < 1.05


def test_points_that_prices_cannot_reach_are_exchanged() -> None:
    # Both curves bend the wrong way: a price takes the first or the last point of each, and what is left is no use.
    errors = [np.array([0.0, 0.9, 1.0]), np.array([0.0, 5.0, 5.2])]
    costs = [np.array([[10.0], [6.0], [1.0]]), np.array([[10.0], [9.5], [1.0]])]
    assert choose(errors, costs, np.array([11.0])) == [2, 0]


def test_without_a_way_below_the_limits_there_is_none() -> None:
    assert choose([np.array([1.0])], [np.array([[2.0, 1.0]])], np.array([1.0, 1.0])) is None
    assert choose([np.array([1.0])], [np.array([[0.0, 0.0]])], np.array([0.0, 0.0])) == [0]
