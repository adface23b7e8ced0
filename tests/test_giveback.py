"""Chains that are given back so that a promise holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.errors import PromiseError
from onnx_tucker.runtime import timing
from tests.helpers import model, relative, run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((200, 24)).astype(np.float32)


def low(out: int, inp: int, rank: int) -> np.ndarray[Any, Any]:
    return (RNG.standard_normal((out, rank)) @ RNG.standard_normal((rank, inp))).astype(np.float32)


def nearly(rng: np.random.Generator, lost: float) -> np.ndarray[Any, Any]:
    """A matrix of rank 4, but for a part of that relative size."""
    left, right = (np.linalg.qr(rng.standard_normal((16, 16)))[0] for _ in range(2))
    return (left * np.r_[np.ones(4), np.full(12, lost / 3**0.5)] @ right).astype(np.float32)


TENSORS = {"a": low(24, 24, 3), "b": low(24, 24, 24), "c": low(24, 24, 3)}
MADE = model(
    [
        helper.make_node("Gemm", ["x", "a"], ["h"], "first", transB=1),
        helper.make_node("Gemm", ["h", "b"], ["g"], "full", transB=1),
        helper.make_node("Gemm", ["x", "c"], ["f"], "second", transB=1),
        helper.make_node("Add", ["f", "g"], ["y"], "add"),
    ],
    TENSORS,
    {"x": ["n", 24]},
    {"y": 2},
)


SUMMED = model(
    [
        *(helper.make_node("Gemm", ["x", f"w{i}"], [f"h{i}"], f"part{i}", transB=1) for i in range(6)),
        helper.make_node("Sum", [f"h{i}" for i in range(6)], ["y"], "sum"),
    ],
    {f"w{i}": (low(24, 24, 1) + 0.5**i * low(24, 24, 2)).astype(np.float32) for i in range(6)},
    {"x": ["n", 24]},
    {"y": 2},
)


def statuses(**options: Any) -> dict[str, str]:
    report = compress(MADE, ranks="3", benchmark=False, keep_slower=True, **options).report
    return {node.name: node.status for node in report.nodes}


@pytest.mark.parametrize("data", [{}, {"data": {"x": X}}])
def test_what_costs_most_is_given_back_first(data: dict[str, Any]) -> None:
    """The second matrix has a high rank, but only three directions of its input are used: with data it may stay."""
    found = statuses(max_error=0.01, **data)
    assert found == {"first": "factorized", "full": "factorized" if data else "kept", "second": "factorized"}


@pytest.mark.parametrize("data", [{}, {"data": {"x": X}}])
def test_the_users_score_decides_too(data: dict[str, Any]) -> None:
    exact = run(MADE, x=X)[0]

    def score(runs: Any) -> float:
        return -relative(exact, runs({"x": X})["y"])

    assert statuses(eval=score, max_drop=0.01, **data)["first"] == "factorized"
    with pytest.raises(PromiseError, match="max-drop 0"):
        statuses(eval=lambda runs: -float(np.abs(exact - runs({"x": X})["y"]).max() > 0), max_drop=0, **data)


def test_a_score_that_held_by_chance_does_not_decide() -> None:
    """Where it forgives the error that three chains less leave, one more is given back."""
    exact = run(SUMMED, x=X)[0]

    def kept(forgiving: bool) -> int:
        def score(runs: Any) -> float:
            missed = relative(exact, runs({"x": X})["y"])
            forgiven.append(forgiving and 0.05 < missed < 0.1)
            return 0.0 if forgiven[-1] else -missed

        options: dict[str, Any] = {"benchmark": False, "keep_slower": True, "data": {"x": X}}
        report = compress(SUMMED, ranks="1", eval=score, max_drop=0.04, **options).report
        return [node.status for node in report.nodes].count("kept")

    forgiven: list[bool] = []
    assert kept(forgiving=True) == kept(forgiving=False)
    assert any(forgiven)


def test_nothing_is_written_if_no_chain_can_stay() -> None:
    with pytest.raises(
        PromiseError, match=r"above --max-error 1e-09\. It is broken even with a single chain left"
    ) as said:
        statuses(max_error=1e-9)
    [whole] = compress(MADE, ranks="3", benchmark=False, keep_slower=True).report.fidelity.outputs
    told = re.search(r"is ([\d.e-]+), above", str(said.value))
    assert told
    assert whole.relative_l2 is not None
    assert 0 < float(told[1]) < 0.9 * whole.relative_l2  # of that chain alone


def test_what_saves_most_is_given_back_too_where_it_breaks_the_promise_alone() -> None:
    """The convolution has most multiplications and no structure, and the next matrix makes up for what it loses."""
    rng = np.random.default_rng(0)
    weights = {
        "w": 0.15 * rng.standard_normal((16, 3, 5, 5)),
        "v": rng.standard_normal((576, 8)) @ rng.standard_normal((8, 64)) / 30,
        "u": rng.standard_normal((64, 10)) / 8,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[2] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("AveragePool", ["r"], ["p"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "v"], ["g"], "low"),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "u"], ["y"], "last"),
    ]
    single = {name: weight.astype(np.float32) for name, weight in weights.items()}
    made = model(nodes, single, {"x": ["n", 3, 24, 24]}, {"y": 2})
    x = np.cumsum(rng.standard_normal((100, 3, 24, 24)), axis=3).astype(np.float32) / 3
    options = {"data": {"x": x}, "max_error": 0.02, "benchmark": False, "threads": 1}
    result = compress(made, ranks="ratio:0.25", **options)
    assert [node.status for node in result.report.nodes] == ["kept", "factorized", "kept"]


def test_what_breaks_the_promise_alone_is_given_back_though_others_cost_more_in_the_mean() -> None:
    """One output is promised as much as all: the second matrix changes that most, the first one all three."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"], "all"),
        helper.make_node("MatMul", ["h", "w"], ["one"], "one"),
        helper.make_node("Add", ["h", "h"], ["two"]),
        helper.make_node("Neg", ["h"], ["three"]),
    ]
    made = model(
        nodes, {"v": nearly(rng, 0.04), "w": nearly(rng, 0.09)}, {"x": ["n", 16]}, {"one": 2, "two": 2, "three": 2}
    )
    report = compress(made, ranks="4", max_error=0.06, benchmark=False, threads=1).report
    assert {node.name: node.status for node in report.nodes} == {"all": "factorized", "one": "kept"}


def test_a_weight_that_many_nodes_share_costs_all_that_it_loses() -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", [f"x{i}", "v"], [f"x{i + 1}"], f"part{i}") for i in range(4)]
    nodes.append(helper.make_node("MatMul", ["x0", "w"], ["h"], "single"))
    nodes.append(helper.make_node("Concat", ["x4", "h"], ["y"], axis=1))
    made = model(nodes, {"v": 1.6 * nearly(rng, 0.2), "w": nearly(rng, 0.12)}, {"x0": ["n", 16]}, {"y": 2})
    report = compress(made, ranks="4", max_error=0.12, benchmark=False, threads=1).report
    assert [node.status for node in report.nodes] == [*["kept"] * 4, "factorized"]


def test_what_is_left_is_what_its_plan_makes() -> None:
    """How far data is trusted while chains are given back is what was found with all of them."""
    rng, nodes, weights, value = np.random.default_rng(1), [], dict[str, Any](), "x"
    for i in range(5):
        weight = rng.standard_normal((32, 4)) @ rng.standard_normal((4, 32)) / 16
        weights[f"w{i}"] = (weight + 0.3 * rng.standard_normal((32, 32)) / 6).astype(np.float32)
        nodes.append(helper.make_node("Gemm", [value, f"w{i}"], [f"h{i}"], f"part{i}", transB=1))
        nodes.append(helper.make_node("Relu", [f"h{i}"], [f"r{i}"]))
        value = f"r{i}"
    made = model([*nodes, helper.make_node("Identity", [value], ["y"])], weights, {"x": ["n", 32]}, {"y": 2})
    x = rng.standard_normal((20, 32)).astype(np.float32)
    options = {"data": {"x": x}, "max_error": 0.2, "benchmark": False, "threads": 1}
    result = compress(made, ranks="ratio:0.4", **options)
    left = [node.status for node in result.report.nodes].count("factorized")
    assert 0 < left < 5
    assert result.plan.basis not in (None, "weights")
    assert compress(made, plan=result.plan, **options).model == result.model


def test_the_reason_is_said() -> None:
    report = compress(MADE, ranks="3", benchmark=False, keep_slower=True, max_error=0.01).report
    assert next(node.reason for node in report.nodes if node.name == "full").startswith("given back")


def test_a_busy_machine_is_said_to_be_so_once_and_later_to_have_been(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(timing, "NOISY", -1.0)
    for wanted in ("The machine is busy", "The machine was busy when this was measured"):
        caplog.clear()
        compress(MADE, ranks="full", dry_run=True, lower=False, cache=tmp_path, threads=1)
        assert wanted in caplog.text


def test_what_costs_most_for_what_it_saves_is_given_back() -> None:
    """The large chain costs more than the small one, but saves thirty times as much; either alone holds the promise."""
    rng = np.random.default_rng(0)

    def nearly(out: int, lost: float) -> np.ndarray[Any, Any]:
        """A matrix of rank two of size 1, and more of what it loses."""
        left, right = np.linalg.qr(rng.standard_normal((out, 3)))[0], np.linalg.qr(rng.standard_normal((24, 3)))[0]
        return (left * [0.8, 0.6, lost] @ right.T).astype(np.float32)

    nodes = [
        helper.make_node("Gemm", ["x", "large.w"], ["l"], "large", transB=1),
        helper.make_node("Gemm", ["x", "small.w"], ["s"], "small", transB=1),
        helper.make_node("Concat", ["l", "s"], ["y"], "both", axis=1),
    ]
    tensors = {"large.w": nearly(240, 0.3), "small.w": nearly(8, 0.27)}
    made = model(nodes, tensors, {"x": ["n", 24]}, {"y": 2})
    options = {"ranks": 2, "benchmark": False, "keep_slower": True, "data": {"x": X}}
    broken = compress(made, **options).report.fidelity
    assert broken is not None
    error = broken.outputs[0].relative_l2
    assert error is not None
    found = compress(made, **options, max_error=0.85 * error).report.nodes
    assert [(node.name, node.status) for node in found] == [("large", "factorized"), ("small", "kept")]
