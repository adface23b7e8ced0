"""How errors of nodes may add up."""

from __future__ import annotations

import math

import pytest

from onnx_tucker.curve import Curve, Point
from onnx_tucker.law import Law


def curves(*weights: float) -> list[Curve]:
    return [Curve([], [Point({}, 0.0), Point({}, 0.25)], weight) for weight in weights]


def test_squared_errors_are_summed() -> None:
    made = Law().of(curves(2.0, 3.0))
    assert [curve.weight for curve in made] == [1.0, 1.0]
    assert [point.error for point in made[0].points] == [0.0, 0.25]


@pytest.mark.parametrize("tilt", [1.0, 2.0])
def test_later_nodes_may_count_more(tilt: float) -> None:
    weights = [curve.weight for curve in Law(tilt=tilt).of(curves(1.0, 1.0, 1.0))]
    assert weights == pytest.approx([1.0, math.exp(tilt / 2), math.exp(tilt)])


def test_what_reaches_the_outputs_may_count() -> None:
    assert [curve.weight for curve in Law(power=0.5).of(curves(4.0, 9.0))] == pytest.approx([2.0, 3.0])


def test_what_nodes_keep_may_be_multiplied() -> None:
    [made] = Law(logarithmic=True).of(curves(1.0))
    kept = math.exp(-made.points[1].error)
    assert kept == pytest.approx(0.75)
    assert math.isfinite(Law(logarithmic=True).of([Curve([], [Point({}, 0.0), Point({}, 1.5)])])[0].points[1].error)
