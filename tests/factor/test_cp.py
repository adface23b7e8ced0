from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.factor import METHODS, weight_error
from onnx_tucker.rank.rules import parse_ranks
from onnx_tucker.rank.search import candidates
from onnx_tucker.types import Site, Stage, Window

STAGE = Stage(12, 10, Window((3, 3), (1, 1), (1, 1), (1,) * 4))


def test_a_sum_of_few_products_is_found() -> None:
    rng = np.random.default_rng(0)
    u, k, v = (rng.standard_normal((size, 4)) for size in (12, 9, 10))
    weight = np.einsum("or,kr,ir->oik", u, k, v).reshape(STAGE.shape)
    assert weight_error(weight, METHODS["cp"].chain(weight, STAGE, (4,))) < 1e-3


def test_the_middle_layer_has_a_group_for_each_product() -> None:
    first, middle, last = METHODS["cp"].stages(STAGE, (4,))
    assert (first.shape, middle.shape, last.shape) == ((4, 10, 1, 1), (4, 1, 3, 3), (12, 4, 1, 1))
    assert middle.groups == 4


@pytest.mark.parametrize(("ranks", "words"), [("vbmf", "no singular values"), ("energy:0.9", "no singular values")])
def test_policies_that_need_singular_values_say_so(ranks: str, words: str) -> None:
    weight = np.random.default_rng(0).standard_normal(STAGE.shape)
    site = Site("n", "Conv", STAGE, weight.dtype, lambda: weight, (1, 10, 8, 8), bias=False)
    [rule] = parse_ranks(ranks).entries.values()
    found = candidates(site, type(rule)(rule.policy, "cp"))
    assert isinstance(found, str)
    assert words in found
