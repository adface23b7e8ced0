"""Coordinates in which losses curve about alike in all directions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_tucker.factor import preconditioner
from onnx_tucker.factor.preconditioner import Preconditioner
from onnx_tucker.types import Array

RNG = np.random.default_rng(0)
SHAPES = ((6, 5, 3, 2), (7, 4), (6,), (1, 4))


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def skewed(size: int) -> Array:
    """A matrix whose products differ much in length."""
    return noise(size, size) * np.geomspace(1, 30, size)


def probes(sides: list[tuple[Array, Array]], count: int) -> Iterator[list[Array]]:
    for _ in range(count):
        signs = [RNG.choice((-1.0, 1.0), (len(a), len(b))) / count**0.5 for a, b in sides]
        yield [a @ sign @ b for (a, b), sign in zip(sides, signs, strict=True)]


def spread(sides: list[tuple[Array, Array]], coordinates: Preconditioner) -> float:
    """How much more a sum of squares curves in one direction than in another, for one array."""
    size = coordinates.start.size
    moved = np.stack(
        [(coordinates.parts(e)[0] - coordinates.parts(coordinates.start)[0]).ravel() for e in np.eye(size)]
    )
    root = np.kron(sides[0][0], sides[0][1].T)
    values = np.linalg.svd(moved @ root, compute_uv=False)
    return float(values[0] / values[-1])


@pytest.mark.parametrize("wide", [preconditioner.WIDE, 5])
def test_curvature_is_alike(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditioner, "WIDE", wide)
    sides = [(skewed(5), skewed(6).T)]
    parts = [noise(5, 6)]
    plain = spread(sides, Preconditioner(parts, []))
    known = spread(sides, Preconditioner(parts, probes(sides, 200)))
    assert known < plain / (50 if wide > 6 else 5)


def test_derivatives_are_those_by_the_coordinates() -> None:
    parts = [noise(*shape) for shape in SHAPES]
    coordinates = Preconditioner(parts, ([noise(*shape) for shape in SHAPES] for _ in range(9)))
    assert all(np.array_equal(a, b) for a, b in zip(parts, coordinates.parts(coordinates.start), strict=True))
    change, step = [noise(*shape) for shape in SHAPES], noise(coordinates.start.size)
    moved = zip(change, coordinates.parts(step), parts, strict=True)
    assert coordinates.derivatives(change) @ step == pytest.approx(sum(np.sum(c * (b - a)) for c, b, a in moved))


def test_what_says_nothing_changes_nothing() -> None:
    parts = [noise(4, 3)]
    for probe in (np.zeros((4, 3)), np.full((4, 3), np.nan)):
        moved = Preconditioner(parts, [[probe]]).parts(np.ones(12))[0]
        assert np.allclose(moved, Preconditioner(parts, []).parts(np.ones(12))[0])
        assert np.isfinite(moved).all()
