from __future__ import annotations

import numpy as np

from onnx_tucker.factor import METHODS, Spectra, weight_error
from onnx_tucker.types import Stage, Window

METHOD, STAGE = METHODS["tucker_kernel"], Stage(12, 10, Window((3, 3), (1, 1), (1, 1), (1,) * 4))


def test_few_kernels_are_found() -> None:
    rng = np.random.default_rng(0)
    core, v, q = rng.standard_normal((12, 3, 2)), rng.standard_normal((10, 3)), rng.standard_normal((9, 2))
    weight = np.einsum("oac,ia,kc->oik", core, v, q).reshape(STAGE.shape)
    assert weight_error(weight, METHOD.chain(weight, STAGE, (3, 2))) < 1e-10
    noisy = weight + rng.standard_normal(weight.shape)
    assert weight_error(noisy, METHOD.chain(noisy, STAGE, (3, 2))) <= METHOD.error_bound(Spectra(noisy), (3, 2))


def test_each_input_component_has_its_kernels() -> None:
    first, middle, last = METHOD.stages(STAGE, (3, 2))
    assert (first.shape, middle.shape, last.shape) == ((3, 10, 1, 1), (6, 1, 3, 3), (12, 6, 1, 1))
    assert (middle.groups, middle.out, middle.inp) == (3, 2, 1)


def test_it_is_tried_by_name_only() -> None:
    assert not METHOD.applies(STAGE)
    assert METHOD.applies(STAGE, by_name=True)
