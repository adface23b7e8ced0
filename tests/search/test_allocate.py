"""Ranks for a budget."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tucker import compress
from onnx_tucker.errors import PromiseError, UsageError
from onnx_tucker.fitting import trust
from onnx_tucker.fitting.rough import Rough
from onnx_tucker.job import silent
from onnx_tucker.prepare import prepare
from onnx_tucker.rank.budget import Budget
from onnx_tucker.search import sensitivity
from onnx_tucker.search.allocate import Allocator
from onnx_tucker.search.allocation import NOTHING, WHOLE
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from tests.helpers import Array, model, relative, run, two_layers

RNG = np.random.default_rng(0)


def uneven() -> tuple[onnx.ModelProto, Array]:
    """Two layers: one of full rank in which inputs hardly vary but in few directions, one that mixes them all."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "a", "p"], ["h"], "first"),
        helper.make_node("Gemm", ["h", "b", "q"], ["y"], "second"),
    ]
    tensors = {
        "a": rng.standard_normal((32, 32)).astype(np.float32),
        "p": np.zeros(32, np.float32),
        "b": rng.standard_normal((32, 32)).astype(np.float32),
        "q": np.zeros(32, np.float32),
    }
    x = rng.standard_normal((200, 4)) @ rng.standard_normal((4, 32)) + 0.05 * rng.standard_normal((200, 32))
    return model(nodes, tensors, {"x": ["n", 32]}, {"y": 2}), x.astype(np.float32)


@pytest.mark.parametrize("quantity", ["flops", "params"])
@pytest.mark.parametrize("share", [0.75, 0.5])
def test_the_budget_is_held_and_data_makes_it_count(quantity: str, share: float) -> None:
    made, x = uneven()
    errors = []
    for data in ({"x": x[50:]}, ()):
        result = compress(made, ranks="auto", budget=f"{quantity}:{share}", data=data, benchmark=False)
        change = getattr(result.report.totals, quantity)
        assert change.after <= share * change.before
        errors.append(relative(run(made, x=x[:50])[0], run(result.model, x=x[:50])[0]))
    assert errors[0] < 0.3 * errors[1]


def test_where_running_takes_long_few_samples_choose_and_all_are_fitted_to(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trust, "LIGHT_MACS", 0)
    monkeypatch.setattr(sensitivity, "PROBE_MACS", 0)
    made, _ = uneven()
    x = (RNG.standard_normal((600, 4)) @ RNG.standard_normal((4, 32))).astype(np.float32)
    with caplog.at_level("INFO", "onnx_tucker"):
        result = compress(made, ranks="auto", budget="flops:0.5", data={"x": x[50:]}, benchmark=False)
    rows = [
        int(record.getMessage().split("fitted to ")[1].split()[0])
        for record in caplog.records
        if "fitted to" in record.getMessage()
    ]
    assert min(rows) == trust.FEW
    assert max(rows) == 440
    assert relative(run(made, x=x[:50])[0], run(result.model, x=x[:50])[0]) < 0.05


def test_a_model_that_takes_no_part_of_a_batch_is_tried_on_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sensitivity, "PROBE_MACS", 0)
    made, x = uneven()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    with caplog.at_level("INFO", "onnx_tucker"):
        result = compress(made, ranks="auto", budget="flops:0.5", data={"x": x}, benchmark=False)
    assert "does not run on a part of a batch" in caplog.text
    assert "first: an error of" in caplog.text
    assert relative(run(made, x=x[:8])[0], run(result.model, x=x[:8])[0]) < 0.3


def test_a_budget_of_everything_changes_nothing() -> None:
    assert compress(two_layers(), ranks="auto", budget="flops:1", benchmark=False).model == two_layers()


def test_what_has_no_chains_is_not_said_to_be_worth_more_than_those() -> None:
    made = two_layers()
    made.graph.node[-1].output[0] = "h"
    made.graph.node.append(helper.make_node("MatMul", ["h", "last"], ["y"], "last"))
    made.graph.initializer.append(numpy_helper.from_array(np.ones((48, 1), np.float32), "last"))
    plan = compress(made, ranks="auto", budget="flops:1", benchmark=False).plan
    reasons = {choice.name: choice.reason for choice in plan.choices}
    assert reasons == {"conv": WHOLE, "fc": WHOLE, "last": NOTHING}


def test_a_budget_that_cannot_be_reached_breaks_the_promise() -> None:
    with pytest.raises(PromiseError, match=r"flops:0.001 cannot be reached: at least the share 0\.\d+ would remain"):
        compress(two_layers(), ranks="auto", budget="flops:0.001", benchmark=False)


def test_it_is_said_what_a_budget_cannot_be_reached_for() -> None:
    made = two_layers()
    made.graph.input.append(helper.make_tensor_value_info("other", 1, [32, 2**20]))
    made.graph.node.append(helper.make_node("MatMul", ["f", "other"], ["z"], "product"))
    made.graph.output.append(helper.make_tensor_value_info("z", 1, None))
    words = r"would remain, 0\.\d+ in nodes that cannot be factorised, of which product costs most: neither side"
    with pytest.raises(PromiseError, match=words):
        compress(made, ranks="auto", budget="flops:0.1", benchmark=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranks": "auto"}, "needs a --budget, or a promise"),
        ({"budget": "flops:0.5"}, "--budget is for --ranks auto"),
        ({"ranks": "auto", "budget": "energy"}, "it is flops:S, params:S, bytes:S or time:S"),
        ({"ranks": "auto", "budget": "time:0.5", "benchmark": False}, "measures no times"),
        ({"ranks": "auto", "budget": "flops:2"}, "a number from 0 to 1"),
    ],
)
def test_nonsense_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compress(two_layers(), **options)


def test_several_budgets_are_all_held() -> None:
    made, x = uneven()
    budgets = ["flops:0.8", "params:0.6", "bytes:0.9"]
    result = compress(made, ranks="auto", budget=budgets, data={"x": x}, benchmark=False)
    totals = result.report.totals
    assert totals.flops.after <= 0.8 * totals.flops.before
    assert totals.params.after <= 0.6 * totals.params.before
    assert result.model.ByteSize() <= 0.9 * made.ByteSize()


def test_weights_stored_as_integers_count_with_the_bytes_that_they_have() -> None:
    low = RNG.standard_normal((2, 256, 4)) @ RNG.standard_normal((2, 4, 256))
    names = ("first", "second")
    nodes = [helper.make_node("DequantizeLinear", [f"{n}.q", "scale", "zero"], [n]) for n in names]
    nodes += [helper.make_node("MatMul", ["x", "first"], ["h"], "one")]
    nodes += [helper.make_node("MatMul", ["h", "second"], ["y"], "two")]
    integers = {f"{n}.q": np.clip(np.round(10 * w), -128, 127).astype(np.int8) for n, w in zip(names, low, strict=True)}
    made = model(nodes, {**integers, "scale": np.float32(0.1), "zero": np.int8(0)}, {"x": [4, 256]}, {"y": 2})
    for share in (0.9, 0.3):
        result = compress(made, ranks="auto", budget=f"bytes:{share}", dequantize=True, benchmark=False)
        kept = share * made.ByteSize()
        assert kept / 2 < result.model.ByteSize() <= kept
    with pytest.raises(PromiseError, match=r"bytes:0\.01 cannot be reached"):
        compress(made, ranks="auto", budget="bytes:0.01", dequantize=True, benchmark=False)


def test_the_smallest_ranks_are_tried() -> None:
    weight = (RNG.standard_normal((64, 2)) @ RNG.standard_normal((2, 64))).astype(np.float32)
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"], "one")], {"w": weight}, {"x": [4, 64]}, {"y": 2})
    assert compress(made, ranks="auto", budget="params:0.032", benchmark=False).report.nodes[0].ranks == (1,)
    with pytest.raises(PromiseError, match=r"at least the share 0\.0313 would remain"):
        compress(made, ranks="auto", budget="params:0.03", benchmark=False)


def test_all_that_a_computed_weight_is_made_of_counts() -> None:
    weight, mask = RNG.standard_normal((64, 64)).astype(np.float32), np.tril(np.ones((64, 64), np.float32))
    nodes = [helper.make_node("Mul", ["w", "mask"], ["m"]), helper.make_node("MatMul", ["x", "m"], ["y"], "one")]
    made = model(nodes, {"w": weight, "mask": mask}, {"x": [4, 64]}, {"y": 2})
    for share in (0.45, 0.2):
        result = compress(made, ranks="auto", budget=f"bytes:{share}", benchmark=False)
        assert 0.8 * share * made.ByteSize() < result.model.ByteSize() <= share * made.ByteSize()


def test_of_several_budgets_the_one_that_cannot_be_reached_is_named() -> None:
    with pytest.raises(PromiseError, match=r"params:0.001 cannot be reached"):
        compress(two_layers(), ranks="auto", budget=["flops:1", "params:0.001"], benchmark=False)


def test_nodes_left_out_for_their_time_come_back_where_nothing_else_holds_a_budget() -> None:
    made, _ = uneven()
    job = prepare(made, Settings(ranks="auto", budget="bytes:0.8", benchmark=False), silent)
    allocator, budgets = Allocator(job, ["bytes"]), (Budget("bytes", 0.8),)
    allocation = allocator.allocation(budgets)
    fewer = allocator.without({"first": 1.0}, allocation, budgets)
    assert next(point.ranks for _, point in fewer) is None
    assert next(point.ranks for _, point in allocator.allocation(budgets)) is None
    assert all(point.ranks for _, point in allocator.allocation((Budget("bytes", 0.4),)))


@pytest.mark.parametrize("better", [True, False])
def test_laws_with_the_same_allocation_are_tried_once(
    better: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[float] = []

    def error(self: Rough, planned: Mapping[str, Candidate]) -> float:
        errors.append(0.9 ** len(errors) if better else 1.1 ** len(errors))
        return errors[-1]

    monkeypatch.setattr(Rough, "error", error)
    rates = (0.7, 0.8, 0.9, 0.95)
    weights = {f"w{i}": np.diag(rate ** np.arange(32)).astype(np.float32) for i, rate in enumerate(rates)}
    ends = ["x", "a", "b", "c", "y"]
    nodes = [helper.make_node("MatMul", [ends[i], f"w{i}"], [ends[i + 1]]) for i in range(4)]
    x = RNG.standard_normal((200, 32)).astype(np.float32)
    made = model(nodes, weights, {"x": ["n", 32]}, {"y": 2})
    with caplog.at_level("INFO", "onnx_tucker"):
        compress(made, ranks="auto", budget="flops:0.5", data={"x": x}, benchmark=False)
    laws = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Law(")]
    assert len(errors) == len({law.split()[-1] for law in laws})
    assert len(errors) < len(laws)
