from __future__ import annotations

import math

import numpy as np
import pytest

from onnx_tucker.errors import UsageError
from onnx_tucker.factor import METHODS, Spectra
from onnx_tucker.rank import POLICIES
from onnx_tucker.rank.rules import Rules, parse_ranks
from onnx_tucker.types import Array, Ranks, Stage, Window
from tests.helpers import low_rank

RNG = np.random.default_rng(0)
KERNEL = low_rank(RNG, 4, 20, 12, 3, 3)
MATRIX = low_rank(RNG, 4, 30, 50)


def stage_of(weight: Array) -> Stage:
    axes = weight.ndim - 2
    return Stage(*weight.shape[:2], Window(weight.shape[2:], (1,) * axes, (1,) * axes, (0,) * 2 * axes))


def ranks(text: str, weight: Array, method: str) -> Ranks | str:
    rule = parse_ranks(text).rule("node")
    assert rule is not None
    assert rule.policy is not None
    return rule.policy.ranks(Spectra(weight), stage_of(weight), METHODS[method])


@pytest.mark.parametrize(
    ("text", "weight", "method", "expected"),
    [
        ("5", KERNEL, "tucker2", (5, 5)),
        ("16", KERNEL, "tucker2", (12, 16)),
        ("8,16", KERNEL, "tucker2", (8, 16)),
        ("8,16", KERNEL, "tucker1_in", (8,)),
        ("8,16", KERNEL, "tucker1_out", (16,)),
        ("8,16", MATRIX, "svd", (8,)),
        ("99", MATRIX, "svd", (30,)),
        ("full", KERNEL, "tucker2", "full rank, nothing to truncate"),
        ("full", MATRIX, "svd", "full rank, nothing to truncate"),
        ("energy:1", KERNEL, "tucker2", (12, 20)),
        ("vbmf", KERNEL, "tucker2", (4, 4)),
        ("vbmf", MATRIX, "svd", (4,)),
        ("vbmf:1", MATRIX, "svd", (4,)),
        ("vbmf:0", KERNEL, "tucker2", (12, 20)),
        ("vbmf:0.5", KERNEL, "tucker2", (8, 12)),
    ],
)
def test_ranks(text: str, weight: Array, method: str, expected: Ranks | str) -> None:
    assert ranks(text, weight, method) == expected


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize(("weight", "method"), [(KERNEL, "tucker2"), (MATRIX, "svd")])
def test_energy_is_the_smallest_rank_that_keeps_its_share(kept: float, weight: Array, method: str) -> None:
    found = ranks(f"energy:{kept}", weight, method)
    spectra = Spectra(weight)
    for mode, rank in zip(METHODS[method].modes, found, strict=True):
        energy = np.square(spectra.of(mode))
        assert isinstance(rank, int)
        assert energy[:rank].sum() >= kept * energy.sum() * (1 - 1e-12)
        assert rank == 1 or energy[: rank - 1].sum() < kept * energy.sum()


@pytest.mark.parametrize("kept", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(
    ("weight", "method"), [(KERNEL, "tucker2"), (KERNEL, "tucker1_in"), (KERNEL, "tucker1_out"), (MATRIX, "svd")]
)
def test_ratio_is_the_largest_rank_within_the_share(kept: float, weight: Array, method: str) -> None:
    stage, found = stage_of(weight), ranks(f"ratio:{kept}", weight, method)

    def params(at: Ranks) -> int:
        return sum(math.prod(part.shape) for part in METHODS[method].stages(stage, at))

    assert isinstance(found, tuple)
    assert params(found) <= kept * weight.size
    assert params(tuple(r + 1 for r in found)) > kept * weight.size


def test_a_ratio_below_rank_one_says_so() -> None:
    reason = ranks("ratio:0.001", MATRIX, "svd")
    assert isinstance(reason, str)
    assert "rank 1" in reason


def test_vbmf_keeps_noise_and_says_why() -> None:
    noise = np.random.default_rng(0).standard_normal((64, 32, 3, 3))
    for method in ("tucker2", "tucker1_in", "tucker1_out"):
        reason = ranks("vbmf", noise, method)
        assert isinstance(reason, str)
        assert reason.startswith("VBMF rank 0")


def test_a_single_channel_has_rank_one() -> None:
    weight = low_rank(np.random.default_rng(0), 3, 30, 40, 3)[:, :1]
    assert ranks("vbmf", weight, "tucker1_in") == (1,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "magic",
        "0",
        "-3",
        "3,0",
        "1,2,3",
        "1.5",
        "energy",
        "energy:",
        "energy:2",
        "ratio:x",
        "vbmf:-1",
        "full:1",
        "vbmf:nan",
        "energy:0.9:1",
    ],
)
def test_unknown_policies_are_usage_errors_in_one_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--ranks .*\.$") as caught:
        parse_ranks(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        parse_ranks("magic")
    assert all(name in str(caught.value) for name in POLICIES)


def test_a_policy_holds_for_every_node() -> None:
    rules = parse_ranks("vbmf")
    assert isinstance(rules, Rules)
    assert rules.rule("anything/at[all]") is not None
    assert rules.unused(set()) == []
