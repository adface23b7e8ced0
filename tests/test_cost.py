"""Counts against the thesis's table and against hand-counted layers."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.cost import FLOPS, Layer, chain_cost, layers
from onnx_tucker.types import Site, Stage, Window

CONV1 = Stage(6, 4, Window((5, 11, 11), (1, 1, 1), (1, 1, 1), (2, 5, 5, 2, 5, 5)))
CONV2 = Stage(16, 6, Window((5, 11, 11), (1, 1, 1), (1, 1, 1), (0,) * 6))


def site(stage: Stage, input_shape: tuple[int, ...] | None) -> Site:
    return Site("s", "Conv", stage, np.dtype(np.float32), lambda: np.ones(stage.shape), input_shape, bias=True)


@pytest.mark.parametrize(
    ("stage", "shape", "expected"),
    [
        (CONV1, (1, 4, 28, 120, 160), 15_618_892_800),
        (CONV2, (1, 6, 14, 30, 40), 697_158_000),
        (Stage(128, 2800, Window()), (1, 2800), 716_800),
        (Stage(84, 128, Window()), (1, 128), 21_504),
        (Stage(2, 84, Window()), (1, 84), 336),
    ],
)
def test_thesis_convention_gives_the_thesis_table(stage: Stage, shape: tuple[int, ...], expected: int) -> None:
    assert chain_cost(site(stage, shape), [stage], "thesis").flops == expected


def test_a_small_convolution_counted_by_hand() -> None:
    # 2 channels of 5x4 to 3 channels by 3x2, stride 2,1, pad 1,0: 3x3 positions.
    stage = Stage(3, 2, Window((3, 2), (2, 1), (1, 1), (1, 0, 1, 0)))
    [layer] = layers([stage], (1, 2, 5, 4), bias=True)
    assert layer.macs == 9 * 3 * 2 * 6
    assert FLOPS["exact"](layer) == 9 * 3 * (12 + 11 + 1)
    assert FLOPS["output"](layer) == 9 * 3 * (2 * 2 * 6 - 1)
    assert FLOPS["molchanov"](layer) == 2 * 20 * (2 * 6 + 1) * 3
    assert FLOPS["thesis"](layer) == 9 * (2 * (2 * 6 + 1) * 3 + 1)


def test_a_small_matrix_counted_by_hand() -> None:
    [layer] = layers([Stage(3, 5, Window())], (2, 5), bias=True, scalings=1)
    assert layer.macs == 2 * 15
    assert FLOPS["exact"](layer) == 2 * 3 * (5 + 4 + 1 + 1)
    assert FLOPS["output"](layer) == 2 * 3 * 9
    assert FLOPS["molchanov"](layer) == 2 * 9 * 3
    assert FLOPS["thesis"](layer) == 2 * 2 * 15


@pytest.mark.parametrize("convention", FLOPS)
def test_batches_multiply(convention: str) -> None:
    one, four = (chain_cost(site(CONV2, (n, 6, 14, 30, 40)), [CONV2], convention) for n in (1, 4))
    assert one.flops is not None
    assert four.flops == 4 * one.flops


def test_a_chain_counts_each_stage_where_it_is_computed() -> None:
    point = Window((1,), (1,), (1,), (0, 0))
    window = Window((3,), (2,), (1,), (1, 1))
    chain = [Stage(2, 8, point), Stage(3, 2, window), Stage(8, 3, point)]
    cost = chain_cost(site(Stage(8, 8, window), (1, 8, 16)), chain, "exact")
    assert cost.params == 2 * 8 + 3 * 2 * 3 + 8 * 3
    assert cost.macs == 16 * 16 + 8 * 18 + 8 * 24
    assert cost.flops == 2 * (16 * 16 + 8 * 18 + 8 * 24) - 16 * 2 - 8 * 3  # the last stage's bias fills its gap


def test_unknown_shapes_are_not_guessed() -> None:
    cost = chain_cost(site(CONV1, None), [CONV1], "exact")
    assert cost.params == 14_520
    assert cost.macs is None
    assert cost.flops is None


def test_macs_of_a_transposed_convolution_follow_the_input() -> None:
    layer = Layer(positions=8, in_positions=8, outputs=64 * 2, fan_in=3, fan_out=2, volume=8, bias=False)
    assert layer.macs == 8 * 3 * 2 * 8
