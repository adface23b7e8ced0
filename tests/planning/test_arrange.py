"""Close calls between options are decided within the whole model."""

from __future__ import annotations

import pytest

from onnx_tucker import compress
from onnx_tucker.runtime.timing import Stopwatch, Timing
from onnx_tucker.types import Choice
from tests.helpers import two_layers


def choose(monkeypatch: pytest.MonkeyPatch, low: float, high: float) -> tuple[Choice, ...]:
    """The choices where all candidates take the same time alone, and the last within the model from `low` to `high`."""

    def compare(self: Stopwatch, models: list[bytes], *args: object) -> list[Timing]:
        alone = len(args) < 4  # for the whole model a tighter interval is asked for
        if alone:
            return [Timing(2.0, 0.0, 1.0, (1.0, 1.0))] + [Timing(1.0, 0.0, 2.0, (2.0, 2.0))] * (len(models) - 1)
        middle = (low + high) / 2
        return [Timing(1.0, 0.0, 1.0, (1.0, 1.0))] * (len(models) - 1) + [Timing(1 / middle, 0.0, middle, (low, high))]

    monkeypatch.setattr(Stopwatch, "compare", compare)
    monkeypatch.setattr(Stopwatch, "sift", lambda self, models, feed: [2.0] + [1.0] * (len(models) - 1))
    monkeypatch.setattr(Stopwatch, "profile", lambda *args: [])
    return compress(two_layers(), ranks="3", dry_run=True).plan.choices


def test_a_rival_that_is_surely_faster_within_the_model_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = choose(monkeypatch, 0.9, 1.1)
    other = choose(monkeypatch, 1.1, 1.3)
    assert usual != other
    assert [c.status for c in usual] == [c.status for c in other] == ["factorized", "factorized"]


def test_one_that_may_not_be_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(monkeypatch, 0.9, 1.1) == choose(monkeypatch, 1.0, 1.4)
