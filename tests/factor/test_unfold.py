from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor.unfold import IN, OUT, Spectra, leading_basis, lost_share, singular_values, unfold


def test_unfolding_rows_are_slices() -> None:
    weight = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(unfold(weight, OUT)[1], weight[1].ravel())
    assert np.array_equal(unfold(weight, IN)[2], weight[:, 2].ravel())


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (7, 7)])
def test_the_leading_basis_keeps_the_most(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    basis = leading_basis(matrix, 4)
    assert np.allclose(basis.T @ basis, np.eye(4))
    values = np.linalg.svd(matrix, compute_uv=False)
    assert np.linalg.norm(basis.T @ matrix) == pytest.approx(np.linalg.norm(values[:4]))


def test_the_basis_is_complete_beyond_the_rank_of_the_matrix() -> None:
    basis = leading_basis(np.random.default_rng(0).standard_normal((9, 2)), 9)
    assert np.allclose(basis.T @ basis, np.eye(9))


def test_spectra_of_a_matrix_are_the_same_on_both_sides() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 8, 1, 1))
    spectra = Spectra(weight)
    assert spectra.of_parts("in") is spectra.of_parts("out")
    assert np.allclose(spectra.of("out"), np.linalg.svd(weight[..., 0, 0])[1])


def test_lost_share() -> None:
    values = singular_values(np.diag([3.0, 2.0, 1.0]))
    assert lost_share(values, 1) == pytest.approx(5 / 14)
    assert lost_share(values, 3) == 0
    assert lost_share(np.zeros(3), 0) == 0
