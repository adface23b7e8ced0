from __future__ import annotations

import numpy as np
import pytest
from tensorly.decomposition import partial_tucker

from onnx_tucker.factor.hooi import bases
from onnx_tucker.factor.unfold import leading_basis, unfold
from onnx_tucker.types import Array

RNG = np.random.default_rng(0)


def kept(tensor: Array, modes: tuple[int, ...], found: list[Array]) -> float:
    """The share of a tensor that its projection onto bases keeps."""
    projected = tensor
    for mode, basis in zip(modes, found, strict=True):
        projected = np.moveaxis(np.tensordot(projected, basis, (mode, 0)), -1, mode)
    return float(np.linalg.norm(projected) / np.linalg.norm(tensor))


@pytest.mark.parametrize(("modes", "ranks"), [((0, 1), (3, 2)), ((1, 2), (4, 2)), ((0, 1, 2), (2, 3, 4))])
def test_they_keep_as_much_as_those_of_tensorly_and_more_than_the_start(
    modes: tuple[int, ...], ranks: tuple[int, ...]
) -> None:
    tensor = RNG.standard_normal((7, 8, 9))
    found = bases(tensor, modes, ranks)
    assert [basis.shape for basis in found] == [(tensor.shape[m], r) for m, r in zip(modes, ranks, strict=True)]
    assert all(np.allclose(basis.T @ basis, np.eye(basis.shape[1])) for basis in found)
    (_, other), _ = partial_tucker(tensor, list(ranks), list(modes), random_state=0)
    start = [leading_basis(unfold(tensor, mode), rank) for mode, rank in zip(modes, ranks, strict=True)]
    assert kept(tensor, modes, found) >= 0.999 * kept(tensor, modes, other)
    assert kept(tensor, modes, found) > kept(tensor, modes, start)


@pytest.mark.parametrize(
    ("tensor", "ranks"),
    [
        (RNG.standard_normal((7, 8, 9)), (3, 8)),
        (RNG.standard_normal((7, 8, 1)), (3, 4)),
        (np.zeros((7, 8, 9)), (3, 2)),
    ],
)
def test_the_start_is_kept_where_it_is_the_best(tensor: Array, ranks: tuple[int, int]) -> None:
    for mode, rank, basis in zip((0, 1), ranks, bases(tensor, (0, 1), ranks), strict=True):
        assert np.array_equal(basis, leading_basis(unfold(tensor, mode), rank))


def test_more_than_the_projected_unfoldings_have_is_no_trouble() -> None:
    tensor = RNG.standard_normal((30, 9, 2))
    u, v = bases(tensor, (0, 1), (20, 1))
    assert np.allclose(u.T @ u, np.eye(20))
    assert kept(tensor, (0, 1), [u, v]) == pytest.approx(kept(tensor, (1,), [v]))
