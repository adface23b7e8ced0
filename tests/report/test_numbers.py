from __future__ import annotations

import pytest

from onnx_tucker.report.numbers import count, factor, milliseconds, share, small


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (23_188, "23,188"), (441_920, "441.9 k"), (15_618_892_800, "15.62 G"), (2e15, "2000 T")],
)
def test_counts(value: float | None, text: str) -> None:
    assert count(value) == text


def test_others() -> None:
    assert [milliseconds(v) for v in (None, 0.01234, 12.345, 1234.5)] == ["–", "0.0123", "12.3", "1234"]
    assert [factor(v) for v in (None, 2.744)] == ["–", "x2.74"]
    assert [share(v) for v in (None, 0.034, 0.5, 1.2)] == ["–", "3.4%", "50%", "120%"]
    assert [small(v) for v in (None, 0.0, 0.1234, 1e-7)] == ["–", "0", "0.12", "1e-07"]
