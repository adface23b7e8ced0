from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_tucker.runtime.fidelity import Comparison, mean_error, relative_l2
from onnx_tucker.types import Closeness
from tests.helpers import Array

RNG = np.random.default_rng(0)


def close(a: Array, b: Array, parts: int = 1, axis: int | None = None) -> Closeness:
    comparison = Comparison({"y": axis})
    for x, y in zip(np.array_split(a, parts), np.array_split(b, parts), strict=True):
        comparison.add(["y"], [x], [y])
    [result] = comparison.results()
    return result


@pytest.mark.parametrize("parts", [1, 3])
def test_measures_against_their_definitions(parts: int) -> None:
    a = RNG.standard_normal((6, 4, 5)).astype(np.float32)
    b = (a + 0.1 * RNG.standard_normal(a.shape)).astype(np.float32)
    assert close(a, b, parts).argmax_agreement is None  # it is not known where classes lie
    result = close(a, b, parts, axis=1)
    relative = np.linalg.norm(a - b) / np.linalg.norm(a)
    assert result.relative_l2 == pytest.approx(relative, rel=1e-6)
    assert result.max_abs == pytest.approx(np.abs(a - b).max(), rel=1e-6)
    assert result.cosine == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-6)
    assert result.snr_db == pytest.approx(-20 * math.log10(relative), rel=1e-6)
    assert result.argmax_agreement == pytest.approx((a.argmax(1) == b.argmax(1)).mean())
    assert result.finite


def test_equal_outputs() -> None:
    a = RNG.standard_normal((3, 4))
    result = close(a, a)
    assert (result.relative_l2, result.max_abs, result.snr_db, result.argmax_agreement) == (0, 0, None, 1)
    assert result.cosine == pytest.approx(1)


def test_what_is_not_defined_is_none() -> None:
    zeros = close(np.zeros((2, 3)), np.ones((2, 3)))
    assert (zeros.relative_l2, zeros.cosine, zeros.snr_db) == (None, None, None)
    assert close(np.zeros((2, 3)), np.zeros((2, 3))).relative_l2 == 0
    assert close(np.ones(4), np.ones(4)).argmax_agreement is None


@pytest.mark.parametrize("scale", [1e80, 1e160])
def test_what_is_too_large_to_be_squared_is_not_known(scale: float) -> None:
    a = np.full((2, 3), scale)
    result = close(a, 2 * a)
    assert result.relative_l2 == (pytest.approx(1) if scale < 1e154 else None)
    assert result.cosine == (pytest.approx(1) if scale < 1e154 else None)
    assert result.effective_samples is None


def test_new_nans_are_noticed_and_old_ones_forgiven() -> None:
    a = np.array([[1.0, np.nan, 3.0]])
    assert close(a, a).finite
    assert not close(a, np.array([[np.inf, 2.0, 3.0]])).finite


def test_what_cannot_be_compared_is_listed_without_numbers() -> None:
    comparison = Comparison()
    comparison.add(["s", "q", "shape"], [np.array(["a"]), ["a"], np.zeros(3)], [np.array(["b"]), [2], np.zeros(4)])
    assert [c.name for c in comparison.results()] == ["s", "q", "shape"]
    assert {c.relative_l2 for c in comparison.results()} == {None}
    assert close(np.full((2, 2), np.nan), np.full((2, 2), np.nan)).relative_l2 is None


def test_sequences_and_maps_count_as_the_numbers_in_them() -> None:
    comparison = Comparison()
    first = [np.array([3.0, 4.0]), np.array([0.0])], [{"a": 3.0, "b": 0.0}, {"a": 4.0, "b": 0.0}]
    second = [np.array([3.0, 4.0]), np.array([1.0])], [{"a": 3.0, "b": 1.0}, {"b": 0.0, "a": 4.0}]
    comparison.add(["sequence", "map"], first, second)
    assert [c.relative_l2 for c in comparison.results()] == pytest.approx([0.2, 0.2])


def test_an_empty_sequence_makes_no_others_the_same() -> None:
    comparison = Comparison()
    comparison.add(["sequence"], [[np.array([3.0, 4.0])]], [[np.array([3.0, 5.0])]])
    comparison.add(["sequence"], [[]], [[]])
    assert [c.relative_l2 for c in comparison.results()] == pytest.approx([0.2])


@pytest.mark.parametrize("other", ["b", "c"])
def test_texts_are_the_same_or_not(other: str) -> None:
    comparison = Comparison()
    comparison.add(["labels"], [np.array(["a"], object)], [np.array(["a"], object)])
    comparison.add(["labels"], [[np.array(["b"], object), "d"]], [[np.array([other], object), "d"]])
    assert [c.relative_l2 for c in comparison.results()] == [0.0 if other == "b" else None]


def test_relative_error_of_single_values() -> None:
    a = RNG.standard_normal((3, 4))
    assert relative_l2(a, 1.25 * a) == pytest.approx(0.25)
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0
    assert relative_l2(np.zeros(3), np.ones(3)) is None
    assert relative_l2(np.ones((2, 3)), np.ones((2, 4))) is None


def test_outputs_that_are_not_finite_are_as_far_off_as_can_be() -> None:
    good, spoilt, text = np.ones((2, 3)), np.ones((2, 3)), np.array(["a"], object)
    spoilt[0, 0] = np.nan
    for other, expected in ((good, 0.0), (spoilt, np.inf), (np.full((2, 3), np.nan), np.inf)):
        comparison = Comparison()
        comparison.add(["y", "z", "label"], [good, good, text], [good, other, text[:0]])
        assert mean_error(comparison.results()) == expected


def test_samples_count_by_their_size() -> None:
    comparison = Comparison()
    sizes = np.array([1.0, 1.0, 1.0, 1.0, 3.0, np.nan])
    for part in np.split(sizes, 2):
        a = part[:, None] * np.eye(1, 4, dtype=np.float32)
        comparison.add(["each", "none", "together"], [a, 0 * a, a.ravel()], [a, a, a.ravel()], samples=3)
    each, none, together = comparison.results()
    assert each.effective_samples == pytest.approx((4 + 9) ** 2 / (4 + 81))
    assert none.effective_samples is None
    assert together.effective_samples == pytest.approx(1)  # the second holds what is no number
