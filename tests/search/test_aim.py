"""The search for how much of what is counted goes with how much of what is measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from onnx_tucker.search.aim import AIMS, NEAR, Aimed, aim


def whole_numbers(taken: Callable[[int], float]) -> Callable[[float], Aimed[int]]:
    """Things of which each uses a whole number."""
    return lambda limit: Aimed(int(limit), float(int(limit)), taken(int(limit)))


@pytest.mark.parametrize("power", [0.8, 1, 2])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_what_is_measured_ends_just_within_the_share(power: float, share: float) -> None:
    met = aim(whole_numbers(lambda used: (used / 1000) ** power), (10, 1000), share)
    assert len(met) <= AIMS
    assert max(one.taken for one in met if one.taken <= share) >= 0.9 * NEAR * share


@pytest.mark.parametrize("share", [0.5, 0.6, 0.8])
@pytest.mark.parametrize("power", [0.8, 1, 2])
def test_a_part_may_not_depend_on_it(power: float, share: float) -> None:
    met = aim(whole_numbers(lambda used: 0.45 + 0.55 * (used / 1000) ** power), (10, 1000), share)
    assert max(one.taken for one in met if one.taken <= share) >= 0.9 * NEAR * share


def test_as_much_as_there_is_may_be_within() -> None:
    met = aim(whole_numbers(lambda used: 0.4), (10, 1000), 0.5)
    assert [one.what for one in met] == [1000]


def test_the_least_is_tried_before_it_is_given_up() -> None:
    met = aim(whole_numbers(lambda used: 0.6 if used > 10 else 0.3), (10, 1000), 0.5)
    assert min(one.taken for one in met) == 0.3


def test_what_nothing_holds_is_not_found() -> None:
    assert all(one.taken > 0.5 for one in aim(whole_numbers(lambda used: 0.9), (10, 1000), 0.5))


def test_other_limits_may_leave_nothing() -> None:
    assert aim(lambda limit: None, (10, 1000), 0.5) == []
    met = aim(lambda limit: None if limit < 300 else Aimed(limit, limit, limit / 1000), (10, 1000), 0.35)
    assert min(one.taken for one in met) <= 0.35


def test_what_leaves_nothing_is_not_tried_again() -> None:
    limits: list[float] = []

    def at(limit: float) -> Aimed[float] | None:
        limits.append(limit)
        return None if limit < 400 else Aimed(limit, limit, 0.2 + limit / 1000)

    met = aim(at, (10, 1000), 0.62)
    assert min(one.taken for one in met) <= 0.62
    least = max(limit for limit in limits if limit < 400) if any(limit < 400 for limit in limits) else 0
    after = limits[limits.index(least) + 1 :] if least else []
    assert all(limit >= least for limit in after)
