from __future__ import annotations

import numpy as np
import pytest
from tensorly.decomposition import partial_tucker

from onnx_tucker.factor import METHODS, weight_error
from onnx_tucker.types import Chain, Stage, Window


def window(axes: int) -> Window:
    return Window((3,) * axes, (1,) * axes, (1,) * axes, (0,) * 2 * axes)


@pytest.mark.parametrize("shape", [(8, 10, 3, 3), (12, 5, 3, 3, 3)])
def test_it_is_as_close_as_tensorly(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(0).standard_normal(shape)
    stage = Stage(shape[0], shape[1], window(len(shape) - 2))
    chain = METHODS["tucker2"].chain(weight, stage, (3, 4))
    _, errors = partial_tucker(weight, [4, 3], [0, 1], random_state=0)
    assert weight_error(weight, chain) <= float(errors[-1]) * 1.001


def test_hooi_improves_on_the_hosvd() -> None:
    weight = np.random.default_rng(1).standard_normal((10, 10, 3))
    method, stage = METHODS["tucker2"], Stage(10, 10, window(1))
    u, v = (np.linalg.svd(np.moveaxis(weight, m, 0).reshape(10, -1))[0][:, :3] for m in (0, 1))
    core = np.einsum("oik,ob,ia->bak", weight, u, v)
    hosvd = Chain(method.stages(stage, (3, 3)), (v.T[..., None], core, u[..., None]))
    assert weight_error(weight, method.chain(weight, stage, (3, 3))) < weight_error(weight, hosvd)


def test_on_a_matrix_it_is_the_three_factor_form_and_as_good_as_the_svd_of_the_smaller_rank() -> None:
    weight = np.random.default_rng(0).standard_normal((20, 30))
    chain = METHODS["tucker2"].chain(weight, Stage(20, 30, Window()), (5, 2))
    assert [f.shape for f in chain.factors] == [(5, 30), (2, 5), (20, 2)]
    svd = METHODS["svd"].chain(weight, Stage(20, 30, Window()), (2,))
    assert weight_error(weight, chain) == pytest.approx(weight_error(weight, svd))


def test_ranks_that_no_unfolding_can_have_are_lossless_all_the_same() -> None:
    weight = np.random.default_rng(0).standard_normal((30, 2, 3))
    chain = METHODS["tucker2"].chain(weight, Stage(30, 2, window(1)), (2, 30))
    assert weight_error(weight, chain) < 1e-12
