"""The best model for budgets and promises; times are only compared within a run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import Result, compress, sweep
from onnx_tucker.errors import PromiseError
from onnx_tucker.fitting import rough
from onnx_tucker.fitting.factorise import Factorised, factorise
from onnx_tucker.giveback import Made, make, outlined, paying
from onnx_tucker.job import Job
from onnx_tucker.planning.pricing import Decision
from onnx_tucker.planning.replay import replay
from onnx_tucker.promises import Promises, Verdict
from onnx_tucker.runtime.session import Feed
from onnx_tucker.runtime.timing import Stopwatch, Timing
from onnx_tucker.search import allocate, auto
from onnx_tucker.search.allocation import SLOW, WHOLE
from onnx_tucker.types import Basis, Candidate, Plan
from tests.helpers import Array, model, relative, run

RNG = np.random.default_rng(0)
WIDE = 256


@pytest.fixture(scope="module")
def smooth() -> tuple[onnx.ModelProto, Array]:
    """Two wide matrices of falling spectra, whose products take long enough to be timed, and inputs."""
    return smooth_of(WIDE, 0.85)


def smooth_of(size: int, rate: float) -> tuple[onnx.ModelProto, Array]:
    """Two matrices of falling spectra, and inputs."""
    rng = np.random.default_rng(0)
    spectrum = np.diag(rate ** np.arange(size))
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
    tensors = {
        "a": (left @ spectrum @ right).astype(np.float32),
        "b": (right @ spectrum @ left).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"], "second"),
    ]
    x = rng.standard_normal((256, size)).astype(np.float32)
    return model(nodes, tensors, {"x": [256, size]}, {"y": 2}), x


def test_a_budget_of_time_is_held_as_measured(smooth: tuple[onnx.ModelProto, Array]) -> None:
    made, x = smooth

    def within() -> Result:
        return compress(made, ranks="auto", budget="time:0.6", data=[{"x": x}, {"x": x[::-1]}], threads=1)

    for _ in range(3):  # where the other core is busy, the last measurement may differ from those before
        with contextlib.suppress(PromiseError):
            result = within()
            break
    else:
        result = within()
    assert result.report.totals.speedup is not None
    assert result.report.totals.speedup >= 1 / 0.6


def machine_of(monkeypatch: pytest.MonkeyPatch, node: float, block: int = 1) -> None:
    """Times never differ: those of weights, a nanosecond each, and so many milliseconds for every one that has any.

    The sizes of weights count as multiples of a block.
    """

    def ms(contents: bytes) -> float:
        weights = onnx.load_model_from_string(contents).graph.initializer
        return sum(node + 1e-6 * math.prod(-(-size // block) * block for size in weight.dims) for weight in weights)

    def sift(self: Stopwatch, models: Sequence[bytes], feed: Feed) -> list[float]:
        return [ms(contents) for contents in models]

    def compare(self: Stopwatch, models: Sequence[bytes], *arguments: object) -> list[Timing]:
        times = [ms(contents) for contents in models]
        return [Timing(time, 0.0, times[0] / time, (times[0] / time, times[0] / time)) for time in times]

    monkeypatch.setattr(Stopwatch, "sift", sift)
    monkeypatch.setattr(Stopwatch, "compare", compare)


def test_a_budget_of_time_costs_no_more_than_it_must(
    smooth: tuple[onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_of(monkeypatch, node=0.0)
    made, x = smooth
    data = [{"x": x}, {"x": x[::-1]}]
    result = compress(made, ranks="auto", budget="time:0.6", data=data, threads=1)
    assert result.report.totals.speedup is not None
    assert 1 / 0.6 <= result.report.totals.speedup < 1.1 / 0.6
    assert relative(run(made, x=x)[0], run(result.model, x=x)[0]) < 0.01


def test_where_the_closest_model_is_slower_a_faster_one_within_the_budget_is_found(
    smooth: tuple[onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_of(monkeypatch, node=0.04)  # half of the weights in twice the nodes take longer
    made, x = smooth
    options = {"ranks": "auto", "budget": "flops:0.5", "data": [{"x": x}, {"x": x[::-1]}], "threads": 1}
    result = compress(made, **options)
    totals = result.report.totals
    assert totals.speedup is not None
    assert totals.speedup > 1
    assert totals.flops.after < 0.35 * totals.flops.before
    assert relative(run(made, x=x)[0], run(result.model, x=x)[0]) < 0.1
    slower = compress(made, **options, keep_slower=True).report.totals
    assert slower.speedup is not None
    assert slower.speedup < 1


def test_where_only_what_is_of_no_use_is_faster_the_budget_is_refused(
    smooth: tuple[onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine_of(monkeypatch, node=0.04)
    made, x = smooth
    options = {"ranks": "auto", "budget": "flops:0.5", "data": [{"x": x}, {"x": x[::-1]}], "threads": 1}
    for found, taken in ((iter([0.4, 0.6]), False), (iter([0.4, 0.55]), True), (iter([0.3, 0.49]), True)):
        monkeypatch.setattr(allocate.Allocator, "error", lambda *_, found=found: next(found))
        with contextlib.nullcontext() if taken else pytest.raises(PromiseError, match="--keep-slower keeps those"):
            assert compress(made, **options).report.totals.speedup > 1
    assert "would differ from it by 60% of its outputs, where what is slower differs by 40%" in caplog.text


def test_what_measures_slower_than_it_was_timed_is_aimed_at_below_that(
    smooth: tuple[onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_of(monkeypatch, node=0.04)
    tried: list[Made] = []

    def paid(job: Job, decision: Decision) -> Made:
        tried.append(paying(job, decision))
        if len(tried) != 2:
            return tried[-1]
        choices = tried[-1].decision.plan.choices
        less = Plan((replace(choices[0], method=None, ranks=None, reason="given back"), *choices[1:]))
        return replace(paying(job, replay(job, less)), slower=True)

    monkeypatch.setattr(auto, "paying", paid)
    made, x = smooth
    result = compress(made, ranks="auto", budget="flops:0.5", data=[{"x": x}, {"x": x[::-1]}], threads=1)
    assert len(tried) == 3
    assert tried[2].timings[1].speedup > tried[1].timings[1].speedup > 1  # type: ignore[index]
    assert result.report.totals.flops.after <= 0.5 * result.report.totals.flops.before
    assert result.report.totals.speedup == tried[2].timings[1].speedup  # type: ignore[index]


def test_ranks_fill_blocks_of_channels_where_that_is_worth_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    made, x = smooth_of(224, 0.97)
    options = {"ranks": "auto", "budget": "flops:0.5", "data": [{"x": x}, {"x": x[::-1]}], "threads": 1}
    machine_of(monkeypatch, node=0.0, block=16)
    closest = compress(made, keep_slower=True, **options)
    result = compress(made, **options)
    ranks = [[rank for node in one.report.nodes for rank in node.ranks or ()] for one in (closest, result)]
    assert any(rank % 16 for rank in ranks[0])
    assert ranks[1]
    assert not any(rank % 16 for rank in ranks[1])
    assert result.report.totals.flops.after <= 0.5 * result.report.totals.flops.before
    assert result.report.totals.speedup > closest.report.totals.speedup  # type: ignore[operator]
    monkeypatch.setattr(allocate, "WORTH", 0.0)
    assert compress(made, **options).plan == closest.plan


def test_ranks_fill_blocks_of_channels_only_where_that_saves_more_than_a_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine_of(monkeypatch, node=0.0)  # of 100 channels, a rank less for each of two chains saves 2 %
    monkeypatch.setattr(allocate, "WORTH", 1e6)
    made, _ = smooth_of(100, 0.97)
    options: dict[str, Any] = {"ranks": "auto", "budget": "flops:0.5", "threads": 1, "dry_run": True}
    assert compress(made, **options).plan == compress(made, keep_slower=True, **options).plan
    monkeypatch.setattr(auto, "FILLED", 0.01)
    assert {choice.ranks for choice in compress(made, **options).plan.choices} == {(24,)}


def test_chains_that_cost_more_time_than_they_are_worth_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine_of(monkeypatch, node=0.005)
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    def falling(inp: int, out: int, rate: float) -> Array:
        size = min(inp, out)
        left, right = (np.linalg.qr(noise(n, size))[0] for n in (inp, out))
        return (left * rate ** np.arange(size) @ right.T).astype(np.float32)

    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["s"], "small"),
        helper.make_node("MatMul", ["z", "b"], ["y"], "large"),
    ]
    weights = {"a": falling(16, 64, 0.5), "b": falling(64, 512, 0.99)}
    made = model(nodes, weights, {"x": [256, 16], "z": [256, 64]}, {"s": 2, "y": 2})
    monkeypatch.setattr(auto, "BLOCKS", ())  # else it may be for other ranks of the other one
    feed = {"x": noise(256, 16), "z": noise(256, 64)}
    turned = {name: value[::-1] for name, value in feed.items()}
    options = {"ranks": "auto", "budget": "flops:0.5", "data": [feed, turned], "threads": 1}
    slower = compress(made, keep_slower=True, **options)
    assert slower.report.nodes[0].status == "factorized"
    result = compress(made, **options)  # a tenth of the time for a twelfth of the squared error
    assert (result.report.nodes[0].status, result.report.nodes[0].reason) == ("kept", SLOW)
    assert result.report.totals.flops.after <= 0.5 * result.report.totals.flops.before
    before, after = (relative(run(made, **feed)[1], run(one.model, **feed)[1]) for one in (slower, result))
    assert after < 1.1 * before
    monkeypatch.setattr(allocate, "WORTH", 0.5)
    assert compress(made, **options).report.nodes[0].status == "factorized"


def test_what_turns_out_slower_is_not_fitted_first(
    smooth: tuple[onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_of(monkeypatch, node=0.04)
    fitted: list[bool] = []

    def noted(job: Job, planned: Mapping[str, Candidate], basis: Basis, **further: Any) -> Factorised:
        fitted.append(basis != "weights" and not further)
        return factorise(job, planned, basis, **further)

    monkeypatch.setattr(rough, "factorise", noted)
    made, x = smooth
    compress(made, ranks="auto", budget="flops:0.5", data=[{"x": x}, {"x": x[::-1]}], threads=1)
    assert sum(fitted) == 1


def test_nothing_is_fitted_that_a_budget_rules_out(
    smooth: tuple[onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_of(monkeypatch, node=10)  # no chain is worth its nodes

    def refused(*_: Any, **__: Any) -> Factorised:
        raise AssertionError

    monkeypatch.setattr(rough.Rough, "closest", refused)
    made, x = smooth
    with pytest.raises(PromiseError, match="as chains that made the model slower"):
        compress(made, ranks="auto", budget="flops:0.5", data=[{"x": x}, {"x": x[::-1]}], threads=1)


def test_a_budget_of_time_out_of_reach_breaks_the_promise(smooth: tuple[onnx.ModelProto, Array]) -> None:
    with pytest.raises(PromiseError, match=r"time:0.0001 cannot be reached: the fastest model found takes the share 0"):
        compress(smooth[0], ranks="auto", budget="time:0.0001")


def test_as_fast_as_what_was_promised_allows(smooth: tuple[onnx.ModelProto, Array]) -> None:
    made, x = smooth
    data = [{"x": x}, {"x": x[::-1]}]
    flops = {}
    for most in (0.01, 0.3):
        result = compress(made, ranks="auto", max_error=most, data=data, benchmark=False)
        assert result.report.fidelity is not None
        assert result.report.fidelity.outputs[0].relative_l2 <= most
        flops[most] = result.report.totals.flops.after
    assert flops[0.3] < flops[0.01] < result.report.totals.flops.before


def test_a_score_is_a_promise_too(smooth: tuple[onnx.ModelProto, Array], tmp_path: Path) -> None:
    made, x = smooth
    expected = run(made, x=x)[0]

    def agreement(run: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> float:
        return float(np.mean(run({"x": x})["y"].argmax(axis=1) == expected.argmax(axis=1)))

    result = compress(
        made, tmp_path / "out.onnx", ranks="auto", eval=agreement, max_drop=0.05, data={"x": x}, threads=1
    )
    assert result.report.totals.params.after < result.report.totals.params.before
    assert agreement(lambda feed: {"y": run(result.model, **feed)[0]}) >= 0.9


def test_a_promise_that_nothing_holds_changes_nothing(smooth: tuple[onnx.ModelProto, Array]) -> None:
    made, x = smooth
    result = compress(made, ranks="auto", max_error=0.0, data=[{"x": x}], benchmark=False)
    assert result.model == made


def test_where_what_is_made_breaks_a_promise_that_held_before_a_milder_one_is_made(
    smooth: tuple[onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, x = smooth
    refused: list[int] = []
    held = auto.hold

    def hold(job: Job, made: Made, promises: Promises) -> tuple[Made, Verdict]:
        if not refused:
            refused.append(outlined(job, made).totals.flops.after or 0)
            raise PromiseError("The outputs are too far off.")
        return held(job, made, promises)

    monkeypatch.setattr(auto, "hold", hold)
    result = compress(made, ranks="auto", max_error=0.05, data=[{"x": x}, {"x": x[::-1]}], benchmark=False)
    assert refused[0] < result.report.totals.flops.after < result.report.totals.flops.before


def test_a_dry_run_says_what_would_be_made(smooth: tuple[onnx.ModelProto, Array]) -> None:
    made, x = smooth
    result = compress(made, ranks="auto", budget="flops:0.5", data=[{"x": x}], benchmark=False, dry_run=True)
    assert result.model == made
    assert {choice.status for choice in result.plan.choices} == {"factorized"}
    with pytest.raises(PromiseError, match=r"time:0\.0001"):
        compress(made, ranks="auto", budget="time:0.0001", data=[{"x": x}], dry_run=True, threads=1)


def test_a_node_that_is_worth_what_it_costs_says_so(smooth: tuple[onnx.ModelProto, Array]) -> None:
    made, x = smooth
    plan = compress(made, ranks="auto", budget="flops:0.95", data=[{"x": x}], benchmark=False, dry_run=True).plan
    assert WHOLE in {choice.reason for choice in plan.choices}


def test_time_that_other_forms_save_without_loss_is_all_that_is_taken() -> None:
    made = model(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[2, 5, 5, 2, 5, 5])],
        {"w": RNG.standard_normal((4, 3, 5, 11, 11)).astype(np.float32)},
        {"x": [1, 3, 12, 40, 40]},
        {"y": 5},
    )
    for dry_run in (True, False):
        result = compress(made, ranks="auto", budget="time:0.8", dry_run=dry_run)
        assert [choice.status for choice in result.plan.choices] == ["lowered"]


def test_a_model_without_layers_stays_as_it_is_and_keeps_its_time() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"], "relu")], {}, {"x": [2, 3]}, {"y": 2})
    assert compress(made, ranks="auto", budget="flops:0.5").model == made
    assert compress(made, ranks="auto", max_error=0.1).model == made
    with pytest.raises(PromiseError, match=r"time:0\.1 cannot be reached: .*, as nothing of it can be factorised"):
        compress(made, ranks="auto", budget="time:0.1")


def test_shapes_that_are_not_known_are_no_reason_to_fail() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["f"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["y"], "product"),
    ]
    made = model(nodes, {"w": RNG.standard_normal((2, 64)).astype(np.float32)}, {"x": [4, 4]}, {"y": 2})
    assert compress(made, ranks="auto", max_error=0.5).model == made


def test_a_budget_of_weights_may_take_more_multiplications() -> None:
    weight = RNG.standard_normal((32, 64, 3, 3)).astype(np.float32)
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv", strides=[4, 4])]
    made = model(nodes, {"w": weight}, {"x": [1, 64, 32, 32]}, {"y": 4})
    totals = compress(made, ranks="auto", budget="params:0.5", benchmark=False).report.totals
    assert totals.params.after <= 0.5 * totals.params.before


def test_a_budget_of_flops_that_are_not_known_is_refused_in_words() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 4)]
    made = model(
        nodes, {"w": RNG.standard_normal((16, 16, 3, 3)).astype(np.float32)}, {"x": [1, 16, "h", "w_"]}, {"y": 4}
    )
    with pytest.raises(PromiseError, match="those of conv are not known; fix the shapes"):
        compress(made, ranks="auto", budget="flops:0.5")
    nothing = model(
        [helper.make_node("Einsum", ["x", "w"], ["y"], "sums", equation="bi,io->bo")],
        {"w": np.eye(4, dtype=np.float32)},
        {"x": ["n", 4]},
        {"y": 2},
    )
    with pytest.raises(PromiseError, match=r"those of sums are not known\.$"):
        compress(nothing, ranks="auto", budget="flops:0.5")
    assert compress(made, ranks="auto", budget="flops:0.5", dim={"h": 8, "w_": 8}, benchmark=False).model != made
    with pytest.raises(PromiseError, match=r"those of conv are not known\.$"):
        compress(made, ranks="auto", budget="flops:0.5", exclude="conv", benchmark=False)


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_a_budget_of_bytes_holds_for_weights_beside_the_model(tmp_path: Path, share: float) -> None:
    nodes, tensors = [], {}
    for i in range(6):
        nodes.append(helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"conv{i}", pads=[1] * 4))
        tensors[f"w{i}"] = RNG.standard_normal((16, 16, 3, 3)).astype(np.float32)
    made = model(nodes, tensors, {"x0": [1, 16, 12, 12]}, {"x6": 4})
    onnx.save(made, tmp_path / "in.onnx", save_as_external_data=True, location="in.bin", size_threshold=0)
    compress(tmp_path / "in.onnx", tmp_path / "out.onnx", ranks="auto", budget=f"bytes:{share}", benchmark=False)
    before, after = (sum(p.stat().st_size for p in tmp_path.glob(f"{name}.*")) for name in ("in", "out"))
    assert after <= share * before


def test_a_budget_of_bytes_holds_for_biases_that_become_larger() -> None:
    """What is added to all channels alike is not when it makes up for what a chain loses."""
    weights = {"w": np.random.default_rng(0).standard_normal((24, 128)), "b": np.ones(1)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    made = model(nodes, {name: w.astype(np.float32) for name, w in weights.items()}, {"x": ["n", 24]}, {"y": 2})
    x = 1 + np.random.default_rng(1).standard_normal((200, 24)).astype(np.float32)
    result = compress(made, ranks="auto", budget="bytes:0.5", data={"x": x}, benchmark=False)
    assert 0.4 < result.report.shares()["bytes"] <= 0.5


def test_a_model_that_cannot_run_breaks_its_promise_in_words() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], "product"),
        helper.make_node("Mystery", ["h"], ["y"], "mystery", domain="nobody"),
    ]
    made = model(nodes, {"w": RNG.standard_normal((64, 64)).astype(np.float32)}, {"x": [2, 64]}, {"y": 2})
    made.opset_import.append(helper.make_opsetid("nobody", 1))
    with pytest.raises(PromiseError, match="cannot be checked"):
        compress(made, ranks="auto", max_error=0.5)
    with pytest.raises(PromiseError, match="cannot be run"):
        sweep(made)


def test_what_a_budget_of_flops_leaves_out_is_said(caplog: pytest.LogCaptureFixture) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node("Einsum", ["h", "v"], ["y"], "sums", equation="bi,io->bo"),
    ]
    weights = {name: np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32) for name in "wv"}
    made = model(nodes, weights, {"x": ["n", 20]}, {"y": 2})
    compress(made, ranks="auto", budget="flops:0.5", benchmark=False)
    assert "The budget of FLOPs is without those of sums, which are not known." in caplog.text


def test_of_bytes_no_less_is_aimed_at_than_can_be_reached() -> None:
    """The cheapest model may be within a budget where one that is somewhat closer was not."""
    made, x = smooth_of(24, 0.8)
    least = compress(made, ranks={"*": {"ranks": 1, "method": "svd"}}, benchmark=False).report.shares()["bytes"]
    result = compress(made, ranks="auto", budget=f"bytes:{least * 1.001:.6f}", data=[{"x": x}], benchmark=False)
    assert result.report.shares()["bytes"] <= least * 1.001


@pytest.mark.parametrize("quantity", ["flops", "params", "bytes"])
@pytest.mark.parametrize("op", ["Gemm", "Conv"])
def test_the_share_that_a_refusal_names_can_be_held(op: str, quantity: str) -> None:
    kernel = (3, 3) if op == "Conv" else ()
    nodes, tensors = [], dict[str, Array]()
    for i in range(3):
        tensors[f"w{i}"] = RNG.standard_normal((24, 24, *kernel)).astype(np.float32)
        tensors[f"b{i}"] = np.ones(24, np.float32)
        nodes.append(helper.make_node(op, [f"v{i}", f"w{i}", f"b{i}"], [f"v{i + 1}"], f"a layer, number {i}"))
    made = model(nodes, tensors, {"v0": ["n", 24, *(9 for _ in kernel)]}, {"v3": 2 + len(kernel)})
    data = RNG.standard_normal((80, 24, *(9 for _ in kernel))).astype(np.float32)
    options: dict[str, Any] = {"ranks": "auto", "data": data, "benchmark": False}
    with pytest.raises(PromiseError) as refusal:
        compress(made, budget=f"{quantity}:0.0001", **options)
    least = str(refusal.value).split("at least the share ")[1].split(" ")[0]
    assert compress(made, budget=f"{quantity}:{least}", **options).report.shares()[quantity] <= float(least)


def test_a_score_that_held_by_chance_only_is_not_taken_for_the_fastest() -> None:
    """The score falls as the outputs err, but within a range it is that of the original."""
    made, x = smooth_of(32, 0.9)
    expected = run(made, x=x)[0]

    def score(runs: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> float:
        error = relative(expected, runs({"x": x})["y"])
        return 1.0 if 0.1 <= error <= 0.2 else 1 - error

    result = compress(made, ranks="auto", eval=score, max_drop=0.05, data={"x": x}, threads=1, benchmark=False)
    assert relative(expected, run(result.model, x=x)[0]) < 0.165  # not as far as the range goes


def test_nor_is_a_model_that_is_made_beyond_those_that_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance, the first that is not made roughly has the score of the original."""
    made, x = smooth_of(32, 0.9)
    expected = run(made, x=x)[0]
    whole: list[Made] = []

    def noted(*about: Any, **further: Any) -> Made:
        whole.append(make(*about, **further))
        return whole[-1]

    def score(runs: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> float:
        return 1.0 if len(whole) == 1 else 1 - relative(expected, runs({"x": x})["y"])

    monkeypatch.setattr(auto, "make", noted)
    monkeypatch.setattr(auto, "STEPS", 12)  # else they differ by little
    result = compress(made, ranks="auto", eval=score, max_drop=0.2, data={"x": x}, threads=1, benchmark=False)
    assert len(whole) == 2
    assert 0.1 < relative(expected, run(result.model, x=x)[0]) <= 0.2
