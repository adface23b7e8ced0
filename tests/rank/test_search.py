from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_tucker.errors import PlanError
from onnx_tucker.factor import METHODS
from onnx_tucker.rank.fixed import Fixed
from onnx_tucker.rank.rules import Rule
from onnx_tucker.rank.search import candidates, cheapest, check_ranks
from onnx_tucker.types import Candidate, Site, Stage, Window


def site(*shape: int, size: int = 8) -> Site:
    axes = len(shape) - 2
    window = Window(shape[2:], (1,) * axes, (1,) * axes, (shape[-1] // 2,) * 2 * axes)
    weight = np.random.default_rng(0).standard_normal(shape)
    stage = Stage(shape[0], shape[1], window)
    return Site("node", "Conv", stage, weight.dtype, lambda: weight, (1, shape[1], *[size] * axes), bias=True)


def names(found: list[Candidate] | str) -> set[str]:
    assert not isinstance(found, str)
    return {candidate.method for candidate in found}


def test_a_kernel_has_three_ways_and_a_matrix_one() -> None:
    assert names(candidates(site(32, 32, 3, 3), Rule(Fixed(8, 8)))) == {"tucker2", "tucker1_in", "tucker1_out"}
    assert names(candidates(site(32, 32, 1, 1), Rule(Fixed(8, 8)))) == {"svd"}
    assert names(candidates(site(32, 32), Rule(Fixed(8, 8)))) == {"svd"}


def test_a_full_mode_gets_no_factor() -> None:
    assert names(candidates(site(32, 4, 3, 3), Rule(Fixed(4, 8)))) == {"tucker1_out"}


def test_nothing_that_grows_is_a_candidate() -> None:
    found = candidates(site(32, 32), Rule(Fixed(16, 16)))  # 16 (32 + 32) = 32 x 32
    assert found == "svd at rank 16 saves nothing"


def test_fewer_weights_but_more_multiplications_are_no_candidate() -> None:
    # A stride of 4 leaves 2x2 positions for the kernel, but the first 1x1 layer works on all 8x8.
    strided = site(8, 32, 2, 2)
    window = Window((2, 2), (4, 4), (1, 1), (0,) * 4)
    strided = replace(strided, stage=Stage(*strided.stage.shape[:2], window))
    assert "tucker1_in" not in names(candidates(strided, Rule(Fixed(15, 2))))


def test_reasons() -> None:
    assert candidates(site(8, 8), Rule(Fixed(8, 8))) == "full rank, nothing to truncate"


def test_one_method_can_be_asked_for() -> None:
    assert names(candidates(site(64, 64), Rule(Fixed(5, 2), "tucker2"))) == {"tucker2"}
    with pytest.raises(PlanError, match="svd cannot factorise"):
        candidates(site(8, 8, 3), Rule(Fixed(2, 2), "svd"))


def test_ranks_for_one_node_are_not_clipped() -> None:
    with pytest.raises(PlanError, match="do not fit"):
        candidates(site(8, 8, 3), Rule(Fixed(9, 2), exact=True))
    with pytest.raises(PlanError, match="do not fit"):
        candidates(site(8, 4), Rule(Fixed(5, 5), exact=True))
    with pytest.raises(PlanError, match="do not fit"):
        check_ranks(site(8, 8, 3), METHODS["tucker2"], (3,))


def test_the_most_accurate_of_about_equally_cheap_candidates_is_taken() -> None:
    found = [Candidate("a", (1,), (), 0.5), Candidate("b", (1,), (), 0.2), Candidate("c", (1,), (), 0.1)]
    assert cheapest(found, [1.0, 1.05, 2.0]) == 1
    assert cheapest(found, [1.0, 2.0, 2.0]) == 0
