"""The original's outputs are computed once, as far as they can be held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnx_tucker.runtime import reference
from onnx_tucker.runtime.reference import Reference

FEEDS = [{"x": np.full(4, i, np.float32)} for i in range(3)]


class Session:
    """Doubles its input, and counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def get_outputs(self) -> list[Any]:
        return []

    def run(self, _: Any, feed: dict[str, Any]) -> list[Any]:
        self.runs += 1
        return [2 * feed["x"]]


def test_each_is_computed_once() -> None:
    session = Session()
    outputs = Reference(session, FEEDS)
    for index in (2, 0, 2, 0):
        assert np.array_equal(outputs.outputs(index)[0], np.full(4, 2.0 * index))
    assert session.runs == 2


def test_what_cannot_be_held_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "HELD", 20)
    session = Session()
    outputs = Reference(session, FEEDS)
    for index in (0, 1, 0, 1):
        assert np.array_equal(outputs.outputs(index)[0], np.full(4, 2.0 * index))
    assert session.runs == 3
