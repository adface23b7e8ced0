"""How errors of nodes may add up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from onnx_tucker.search.curve import Curve, Point
from onnx_tucker.search.law import Law, best


def curves(*weights: float) -> list[Curve]:
    return [Curve([], [Point({}, 0.0), Point({}, 0.25)], weight) for weight in weights]


def test_squared_errors_are_summed() -> None:
    made = Law().of(curves(2.0, 3.0))
    assert [curve.weight for curve in made] == [1.0, 1.0]
    assert [point.error for point in made[0].points] == [0.0, 0.25]


@pytest.mark.parametrize("tilt", [1.0, 2.0, -1.0])
def test_later_nodes_may_count_more_or_less(tilt: float) -> None:
    weights = [curve.weight for curve in Law(tilt=tilt).of(curves(1.0, 1.0, 1.0))]
    assert weights == pytest.approx([1.0, math.exp(tilt / 2), math.exp(tilt)])


def test_what_reaches_the_outputs_may_count() -> None:
    assert [curve.weight for curve in Law(power=0.5).of(curves(4.0, 9.0))] == pytest.approx([2.0, 3.0])


def test_what_nodes_keep_may_be_multiplied() -> None:
    [made] = Law(logarithmic=True).of(curves(1.0))
    kept = math.exp(-made.points[1].error)
    assert kept == pytest.approx(0.75)
    assert math.isfinite(Law(logarithmic=True).of([Curve([], [Point({}, 0.0), Point({}, 1.5)])])[0].points[1].error)


def found(errors: Mapping[float, float]) -> tuple[Law, list[float]]:
    """The law that is found where models have these errors by how far the last node counts more, and what is tried."""
    tried = list[float]()

    def missed(curves: Sequence[Curve]) -> float:
        tried.append(round(math.log(curves[-1].weight / curves[0].weight)))
        return errors[tried[-1]]

    return best(curves(1.0, 1.0), missed)[0], tried


@pytest.mark.parametrize(
    ("errors", "tilt"),
    [
        ({0: 0.5, 1: 0.4, 2: 0.3}, 2.0),
        ({0: 0.5, 1: 0.4, 2: 0.45}, 1.0),
        ({0: 0.5, 1: 0.6, -1: 0.4, -2: 0.3}, -2.0),
        ({0: 0.5, 1: 0.6, -1: 0.499, -2: 0.498}, 0.0),  # not clearly closer
        ({0: 0.5, 1: 0.6, -1: 0.7}, 0.0),
    ],
)
def test_earlier_or_later_nodes_count_more_where_that_is_clearly_closer(
    errors: Mapping[float, float], tilt: float
) -> None:
    law, tried = found(errors)
    assert law.tilt == tilt
    assert set(tried) == set(errors)  # what does harm is not tried further, nor the other way of what helps
