"""The main job through the Python API."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_tucker
from onnx_tucker import compress, inspect
from onnx_tucker.errors import DataError, ModelError, OutputError, PlanError, PromiseError, TuckerError, UsageError
from onnx_tucker.fitting import factorise
from onnx_tucker.graph.nodes import Names
from onnx_tucker.job import silent
from onnx_tucker.measure import output_errors
from onnx_tucker.planning import arrange
from onnx_tucker.prepare import prepare
from onnx_tucker.report.schema import Change
from onnx_tucker.runtime.timing import Stopwatch, Timing
from onnx_tucker.settings import Settings
from onnx_tucker.types import Plan
from tests.helpers import candidate, conv_model, load_whole, low_rank, model, relative, run, stored, two_layers

X = np.random.default_rng(1).standard_normal((8, 24, 16, 16)).astype(np.float32)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.onnx"
    onnx.save(two_layers(), path)
    return path


def pretend(monkeypatch: pytest.MonkeyPatch, *speedups: float) -> list[int]:
    """Makes each comparison report the next of some speed-ups for all but the first model; returns their sizes.

    Comparisons of forms within the model, which take less time, see no difference and are not counted.
    """
    sizes: list[int] = []
    left = list(speedups)

    def compare(
        self: Stopwatch,
        models: list[bytes],
        feed: object,
        seconds: float,
        folder: object = None,
        tight: float | None = None,
    ) -> list[Timing]:
        if tight is not None and seconds == arrange.CONTEST_SECONDS:
            return [Timing(1.0, 0.0, 1.0, (1.0, 1.0)) for _ in models]
        sizes.append(len(models))
        speed = left.pop(0) if len(left) > 1 else left[0]
        return [Timing(1.0, 0.0, 1.0, (1.0, 1.0))] + [
            Timing(1 / speed, 0.0, speed, (speed * 0.99, speed * 1.01)) for _ in models[1:]
        ]

    monkeypatch.setattr(Stopwatch, "compare", compare)
    monkeypatch.setattr(Stopwatch, "profile", lambda *args: [])
    return sizes


def test_the_main_job(source: Path, tmp_path: Path) -> None:
    before = source.read_bytes()
    target = tmp_path / "out.onnx"
    result = compress(source, target, ranks="vbmf", keep_slower=True, data={"x": X})
    assert source.read_bytes() == before
    written = onnx.load(target)
    assert written == result.model
    onnx.checker.check_model(written, full_check=True)
    assert relative(run(two_layers(), x=X)[0], run(written, x=X)[0]) < 0.1
    report = result.report
    assert [(n.name, n.status) for n in report.nodes] == [("conv", "factorized"), ("fc", "factorized")]
    assert report.totals.params.before == 32 * 24 * 9 + 48 * 32
    assert report.totals.params.after == sum(n.params.after or 0 for n in report.nodes)
    assert report.totals.file_bytes.after == target.stat().st_size < source.stat().st_size
    assert report.fidelity is not None
    assert (report.fidelity.inputs, report.fidelity.samples) == ("data", 1)  # one of five is kept for this
    errors = [relative(run(two_layers(), x=X[[i]])[0], run(written, x=X[[i]])[0]) for i in range(5)]
    assert report.fidelity.outputs[0].relative_l2 in [pytest.approx(error, rel=1e-3) for error in errors]
    for node in report.nodes:
        assert node.time_ms.before
        assert node.time_ms.after
        assert node.speedup
        assert node.time_share
        assert node.error.weight is not None
        assert 0 < node.error.weight < 0.1
        assert node.error.output is not None
        assert 0 < node.error.output < 0.2
    assert report.settings["data"] == [{"x": "ndarray"}]


def test_a_model_in_memory_is_enough_and_is_not_changed() -> None:
    made = two_layers()
    result = compress(made, ranks="vbmf", benchmark=False, data=None)
    assert made == two_layers()
    assert result.model != made
    assert result.report.totals.time_ms.before is None
    assert result.report.fidelity is not None
    assert result.report.fidelity.inputs == "random"


def test_errors_of_nodes_are_remembered_by_content(source: Path, tmp_path: Path) -> None:
    def errors(x: np.ndarray) -> list[float | None]:
        report = compress(source, ranks="3", benchmark=False, cache=tmp_path / "cache", data={"x": x}).report
        return [node.error.output for node in report.nodes]

    first, other = errors(X), errors(X + 1)
    assert first == errors(X) != other
    assert None not in first
    # Of both data: the errors of nodes, what the chains were best made from, and how far the data of two nodes in each
    # of three parts is trusted.
    assert len(list((tmp_path / "cache" / "measured").iterdir())) == 2 * (2 + 2 * 3)


def test_errors_of_other_nodes_of_the_same_model_are_not_remembered(source: Path, tmp_path: Path) -> None:
    job = prepare(source, Settings(data={"x": X}, cache=tmp_path / "cache"), silent)
    planned = {f.label: candidate(f, None) for f in job.found}
    weights = {f.label: stored(f, planned[f.label], Names(job.model)) for f in job.found}
    for labels in (["fc"], ["conv"], ["fc"]):
        some = {label: planned[label] for label in labels}
        assert list(output_errors(job, job.model, some, weights)) == labels


def test_nothing_to_do_writes_the_same_bytes(source: Path, tmp_path: Path) -> None:
    # Bytes that another serializer would have written otherwise: a field in an unusual place.
    source.write_bytes(source.read_bytes() + onnx.ModelProto(doc_string="late").SerializeToString())
    result = compress(source, tmp_path / "out.onnx", ranks="full", benchmark=False)
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()
    assert {n.status for n in result.report.nodes} == {"kept"}
    assert {n.reason for n in result.report.nodes} == {"full rank, nothing to truncate"}


def test_the_same_options_give_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        compress(source, tmp_path / name, ranks="ratio:0.5", cache=tmp_path / "cache")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_jobs_do_not_change_the_result(source: Path, tmp_path: Path) -> None:
    for jobs in (1, 2):
        compress(source, tmp_path / str(jobs), ranks="vbmf", benchmark=False, jobs=jobs)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_slow_chains_are_given_back_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0.8)
    result = compress(two_layers(), ranks="vbmf")
    assert result.model == two_layers()
    assert all(n.status == "kept" and "measured x0.80 with" in n.reason for n in result.report.nodes)
    assert result.report.totals.speedup == 1
    assert result.report.totals.time_ms.before == result.report.totals.time_ms.after


def test_unless_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0.8)
    result = compress(two_layers(), ranks="vbmf", keep_slower=True)
    assert {n.status for n in result.report.nodes} == {"factorized"}
    assert result.report.totals.speedup == 0.8


def test_a_chain_can_be_asked_to_be_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1.5)
    assert {n.status for n in compress(two_layers(), ranks="vbmf", min_speedup=1.6).report.nodes} == {"kept"}
    assert {n.status for n in compress(two_layers(), ranks="vbmf", min_speedup=1.4).report.nodes} == {"factorized"}


def test_a_whole_model_that_is_slower_is_given_back_half_by_half(monkeypatch: pytest.MonkeyPatch) -> None:
    # Both layers measure faster alone, the model with both slower, the model with one of them faster.
    pretend(monkeypatch, 1.2, 1.5, 0.9, 1.1)
    result = compress(two_layers(), ranks="vbmf")
    assert [(n.name, n.status) for n in result.report.nodes] == [("conv", "kept"), ("fc", "factorized")]
    assert "the whole model measured x0.90" in result.report.nodes[0].reason
    assert result.report.totals.speedup == 1.1


def test_a_whole_model_that_stays_slower_is_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 1.2, 1.5, 0.9)
    assert compress(two_layers(), ranks="vbmf").model == two_layers()


def test_all_candidates_of_a_node_are_timed_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = pretend(monkeypatch, 1.5)
    monkeypatch.setattr(Stopwatch, "sift", lambda self, models, feed: [1.0] * len(models))
    compress(two_layers(), ranks="3")
    assert sizes == [4, 2, 2]  # conv with three candidates, fc with one, the whole model


def test_of_those_that_are_far_slower_only_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = pretend(monkeypatch, 1.5)
    monkeypatch.setattr(Stopwatch, "sift", lambda self, models, feed: [9.0**i for i in range(len(models))])
    compress(two_layers(), ranks="3")
    assert sizes == [3, 2, 2]


def test_a_plan_is_replayed_exactly(source: Path, tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    first = compress(source, tmp_path / "a", ranks="vbmf", benchmark=False, plan_out=plan)
    again = compress(source, tmp_path / "b", plan=plan)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first.plan == again.plan == Plan.from_json(plan.read_text())
    assert compress(source, plan=first.plan, benchmark=False).model == first.model


def test_ranks_by_node_as_a_table(tmp_path: Path) -> None:
    table = {"fc": 3, "*": "keep"}
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps(table), encoding="utf-8")
    made = [compress(two_layers(), ranks=ranks, benchmark=False) for ranks in (table, path)]
    assert made[0].model == made[1].model
    assert [node.ranks for node in made[0].report.nodes] == [None, (3,)]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (conv_model(low_rank(np.random.default_rng(0), 2, 8, 8, 3)), "only the plan has a node 'fc'"),
        (two_layers(), "the ranks 3,99 do not fit tucker2"),
    ],
)
def test_plans_of_other_models_are_refused(other: onnx.ModelProto, words: str) -> None:
    text = compress(two_layers(), ranks="3", benchmark=False).plan.to_json()
    plan = Plan.from_json(text.replace("[\n    3,\n    3\n   ]", "[3, 99]"))
    with pytest.raises(PlanError, match=words):
        compress(other, plan=plan, benchmark=False)


def test_ranks_have_no_say_where_there_is_a_plan() -> None:
    plan = compress(two_layers(), ranks="3", benchmark=False).plan
    again = compress(two_layers(), plan=plan, ranks="bogus", benchmark=False).plan
    assert [choice.ranks for choice in again.choices] == [choice.ranks for choice in plan.choices]


def test_a_plan_without_ranks_is_refused() -> None:
    plan = compress(two_layers(), ranks="3", benchmark=False).plan
    empty = Plan(tuple(replace(choice, ranks=()) for choice in plan.choices))
    with pytest.raises(PlanError):
        compress(two_layers(), plan=empty, benchmark=False)


def test_a_model_of_which_nothing_runs_is_timed() -> None:
    product = helper.make_node("MatMul", ["a", "w"], ["y"], "product")
    made = model([product], {"a": np.ones((8, 40), np.float32), "w": np.ones((40, 32), np.float32)}, {}, {"y": 2})
    assert inspect(made).nodes[0].name == "product"


def test_the_order_of_a_plan_does_not_matter() -> None:
    first = compress(two_layers(), ranks="3", benchmark=False)
    turned = Plan(first.plan.choices[::-1])
    again = compress(two_layers(), plan=turned, benchmark=False)
    assert again.model == first.model
    assert again.report.nodes == first.report.nodes


def test_a_plan_for_other_shapes_is_refused() -> None:
    plan = compress(two_layers(), ranks="3", benchmark=False).plan
    other = two_layers()
    other.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(np.ones((32, 24, 1, 1), np.float32), "conv.weight")
    )
    with pytest.raises(PlanError, match=r"its 'conv' is a Conv of shape \(32, 24, 3, 3\)"):
        compress(other, plan=plan, benchmark=False)


def test_a_dry_run_writes_no_model_but_plan_and_report(source: Path, tmp_path: Path) -> None:
    result = compress(
        source,
        tmp_path / "out.onnx",
        dry_run=True,
        plan_out=tmp_path / "p.json",
        report=[tmp_path / "r.json"],
        keep_slower=True,
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.onnx", "p.json", "r.json"]
    assert {n.status for n in result.report.nodes} == {"factorized"}
    assert result.report.totals.params.after < result.report.totals.params.before  # type: ignore[operator]
    assert result.report.totals.time_ms.before
    assert result.report.totals.time_ms.after is None
    assert result.report.fidelity is None


def test_inspecting_counts_and_times(source: Path) -> None:
    report = inspect(source, flops="thesis")
    assert [n.name for n in report.nodes] == ["conv", "fc"]
    assert report.nodes[0].flops.before == 256 * (2 * (24 * 9 + 1) * 32 + 1)
    assert report.nodes[0].time_ms.before
    assert report.totals.time_ms.before


def test_nodes_can_be_chosen() -> None:
    def factorised(**options: object) -> list[str]:
        report = compress(two_layers(), ranks="vbmf", benchmark=False, **options).report
        return [n.name for n in report.nodes if n.status == "factorized"]

    assert factorised() == ["conv", "fc"]
    assert factorised(include=["f*"]) == ["fc"]
    assert factorised(exclude=["conv"]) == ["fc"]
    assert factorised(op_types=["Conv"]) == ["conv"]
    assert factorised(include=["none"]) == []


def test_a_ranks_file_decides_by_node(tmp_path: Path) -> None:
    ranks = tmp_path / "r.toml"
    ranks.write_text('conv = { method = "tucker1_in", ranks = 2 }\n')
    report = compress(two_layers(), ranks=str(ranks), benchmark=False).report
    assert [(n.method, n.ranks, n.reason) for n in report.nodes] == [
        ("tucker1_in", (2,), ""),
        (None, None, "the ranks do not name it"),
    ]
    ranks.write_text("cnov = 3\n")
    with pytest.raises(PlanError, match="'cnov'"):
        compress(two_layers(), ranks=str(ranks), benchmark=False)
    ranks.write_text("conv = [99, 3]\n")
    with pytest.raises(PlanError, match="do not fit"):
        compress(two_layers(), ranks=str(ranks), benchmark=False)


def test_promises(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    compress(source, target, ranks="3", benchmark=False, max_error=0.5)
    target.unlink()
    with pytest.raises(PromiseError, match="above --max-error"):
        compress(source, target, ranks="1", benchmark=False, max_error=1e-4, report=[tmp_path / "r.json"])
    with pytest.raises(PromiseError, match="score falls from"):
        compress(source, target, ranks="1", benchmark=False, eval=_agreement, max_drop=0.0)
    with pytest.raises(PromiseError, match="--fail-if-unchanged"):
        compress(source, target, ranks="full", benchmark=False, fail_if_unchanged=True)
    assert [p.name for p in tmp_path.iterdir()] == ["in.onnx"]
    report = compress(source, target, ranks="1", benchmark=False, eval=_agreement, max_drop=1e9).report
    assert target.exists()
    score = report.totals.score
    assert score.before is not None
    assert score.after is not None
    assert score.after < score.before


def _agreement(run_: object) -> float:
    return -float(np.abs(run_({"x": X})["y"] - run(two_layers(), x=X)[0]).max())  # type: ignore[operator]


def test_free_sizes_leave_counts_unknown_but_not_the_factors(caplog: pytest.LogCaptureFixture) -> None:
    made = conv_model(low_rank(np.random.default_rng(0), 2, 16, 16, 3, 3), size=["h", "w"])
    report = compress(made, ranks="2").report
    [node] = report.nodes
    assert node.status == "factorized"
    assert node.flops.before is None
    assert node.time_ms.before is None
    assert report.fidelity is None
    assert "with --input-shape" in caplog.text
    known = compress(made, ranks="2", input_shape={"x": (1, 16, 8, 8)}, keep_slower=True).report
    assert known.nodes[0].flops.before
    assert (
        compress(made, ranks="2", data={"x": np.ones((3, 16, 8, 8))}, keep_slower=True).report.nodes[0].time_ms.before
    )


def test_models_that_onnxruntime_cannot_run_are_factorised_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    made = two_layers()
    made.opset_import.add(domain="strange", version=1)
    made.graph.node.append(onnx.helper.make_node("Unheard", ["y"], ["z"], domain="strange"))
    report = compress(made, ranks="vbmf", keep_slower=True).report
    assert "cannot run the model" in caplog.text
    assert {n.status for n in report.nodes} == {"factorized"}
    assert report.totals.time_ms.before is None
    with pytest.raises(DataError):
        compress(made, ranks="vbmf", data={"x": X})
    for promise in ({"max_error": 1.0}, {"eval": _agreement, "max_drop": 1.0}):
        with pytest.raises(PromiseError, match="cannot be checked"):
            compress(made, ranks="vbmf", benchmark=False, **promise)


def test_invalid_models_are_refused() -> None:
    made = two_layers()
    made.graph.node[1].input[0] = "nowhere"
    with pytest.raises(ModelError, match="not valid"):
        compress(made)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"flops": "many"}, "--flops many"),
        ({"op_types": ["Relu"]}, "--op-types Relu"),
        ({"max_drop": 0.1}, "name that with --eval"),
        ({"max_error": float("nan")}, "--max-error"),
        ({"threads": -1}, "--threads"),
        ({"jobs": 0}, "--jobs"),
        ({"report": ["r.txt"]}, "--report r.txt"),
        ({"dim": {"q": 1}}, "--dim q"),
        ({"output": 5}, "--output is a path"),
        ({"eval": "none.py:f", "max_drop": 0}, "no Python file"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compress(two_layers(), **options)


def test_files_that_are_read_are_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(two_layers(), path, save_as_external_data=True, location="out.onnx.data", size_threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(UsageError, match="is an input itself"):
        compress(path, tmp_path / "out.onnx.data", benchmark=False, overwrite=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    compress(path, tmp_path / "out.onnx", ranks="full", benchmark=False, overwrite=True)
    assert load_whole(tmp_path / "out.onnx") == two_layers()
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert {p.name for p in tmp_path.iterdir()} == {*before, "out.onnx", "out.onnx.1.data"}


def test_external_data_stays_external_and_an_old_result_is_replaced_whole(tmp_path: Path) -> None:
    path, target = tmp_path / "m.onnx", tmp_path / "out.onnx"
    onnx.save_model(two_layers(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    x = {"x": np.random.default_rng(0).standard_normal((1, 24, 16, 16)).astype(np.float32)}
    for ranks, data in (("vbmf", "out.onnx.data"), ("ratio:0.5", "out.onnx.1.data"), ("full", "out.onnx.data")):
        result = compress(path, target, ranks=ranks, benchmark=False, overwrite=True)
        assert {p.name for p in tmp_path.iterdir()} == {"m.onnx", "weights.bin", "out.onnx", data}
        assert onnx.load(target, load_external_data=False) == result.model
        onnx.checker.check_model(target, full_check=True)
        assert result.report.fidelity is not None
        relative_l2 = result.report.fidelity.outputs[0].relative_l2
        error = relative(run(two_layers(), **x)[0], run(load_whole(target), **x)[0])
        assert relative_l2 == pytest.approx(error, rel=0.5)


def test_a_fixed_batch_goes_with_data() -> None:
    made = two_layers()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    report = compress(made, ranks="3", data={"x": X}, keep_slower=True).report
    assert report.fidelity is not None
    assert report.fidelity.samples == 8
    assert report.nodes[1].macs.before == 4 * 48 * 32


def test_given_sizes_win_over_the_datas() -> None:
    counts = [
        compress(two_layers(), ranks="3", data={"x": X}, keep_slower=True, **options).report.nodes[1].macs.before
        for options in ({}, {"dim": {"n": 3}}, {"input_shape": {"x": (5, 24, 16, 16)}}, {"dim": {"n": 64}})
    ]
    assert counts == [48 * 32 * n for n in (1, 3, 5, 64)]


def test_a_batch_of_one_may_be_impossible() -> None:
    made = two_layers()
    node = onnx.helper.make_node("Reshape", ["y", "target"], ["z"])
    made.graph.node.append(node)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4, 48]), "target"))
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("z", 1, [None] * 3))
    report = compress(made, ranks="3", data={"x": X}, keep_slower=True).report
    assert report.totals.time_ms.before
    assert report.fidelity is not None
    assert compress(made, ranks="3", keep_slower=True).report.fidelity is None


def test_outputs_whose_shape_depends_on_the_data_are_held_by_what_they_are_chosen_from() -> None:
    made = two_layers()
    noise = np.random.default_rng(0).standard_normal((48, 32)).astype(np.float32)
    made.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(noise, "fc.weight"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    made.graph.node.append(onnx.helper.make_node("Greater", ["y", "zero"], ["positive"]))
    made.graph.node.append(onnx.helper.make_node("NonZero", ["positive"], ["where"]))
    made.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("where", 7, [2, None]))
    report = compress(made, ranks="1", data={"x": X}, benchmark=False).report
    assert report.fidelity is not None
    [output] = report.fidelity.outputs
    assert [part.name for part in output.parts] == ["y"]
    assert compress(made, ranks="1", data={"x": X}, benchmark=False, max_error=1.0, include="fc").report.nodes
    with pytest.raises(PromiseError, match="part y of output where on the data is"):
        compress(made, ranks="1", data={"x": X}, benchmark=False, max_error=0.01, include="fc")


def test_data_without_a_finite_number_is_said_to_tell_nothing(caplog: pytest.LogCaptureFixture) -> None:
    compress(two_layers(), ranks="1", data={"x": np.full_like(X, np.nan)}, benchmark=False)
    assert "Nothing is known of the output y" in caplog.text
    assert "NaN" in caplog.text


def test_weights_can_go_to_a_file_of_their_own(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    result = compress(source, target, ranks="ratio:0.5", benchmark=False, save_as_external_data=True)
    assert onnx.load(target, load_external_data=False) == result.model
    size = target.stat().st_size + (tmp_path / "out.onnx.data").stat().st_size
    assert result.report.totals.file_bytes.after == size


def test_the_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert onnx_tucker.__version__ == version("onnx-tucker")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.float32], ids=str)
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_every_type_is_factorised_whether_onnxruntime_runs_it_or_not(op_type: str, dtype: type) -> None:
    rng = np.random.default_rng(0)
    conv = op_type.startswith("Conv")
    weight = (low_rank(rng, 3, 32, 32, 3, 3) if conv else low_rank(rng, 3, 64, 64)).astype(dtype)
    node = onnx.helper.make_node(op_type, ["x", "w"], ["y"], "node")
    shape = [1, 32, 8, 8] if conv else [8, 64]
    made = model([node], {"w": weight}, {"x": shape}, {"y": len(shape)}, opset=22, ir_version=10)
    elem_type = made.graph.initializer[0].data_type
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = elem_type
    result = compress(made, ranks="4", keep_slower=True)
    [report] = result.report.nodes
    assert report.status == "factorized"
    assert {tensor.data_type for tensor in result.model.graph.initializer} == {elem_type}
    assert report.error.weight is not None
    assert report.error.weight < 0.03
    runs = result.report.fidelity is not None
    assert runs == (report.time_ms.before is not None) == (report.error.output is not None)
    assert runs or dtype not in (np.float32, np.float16)


def test_of_chains_that_are_not_made_no_time_within_the_model_is_told() -> None:
    nodes = compress(two_layers(), ranks="6", dry_run=True, keep_slower=True, threads=1).report.nodes
    assert all(n.form and n.in_situ_ms.before and n.in_situ_ms.after is None for n in nodes)


def test_chains_of_an_earlier_run_are_timed_too() -> None:
    once = compress(two_layers(), ranks="6", benchmark=False).model
    again = compress(once, ranks="3", refactorize=True, keep_slower=True)
    assert all(n.time_ms.before for n in again.report.nodes)


def test_a_data_file_replaces_nothing_that_is_read_or_written(tmp_path: Path) -> None:
    onnx.save(two_layers(), tmp_path / "out.onnx.data")
    options = {"benchmark": False, "overwrite": True, "save_as_external_data": True, "ranks": "full"}
    compress(tmp_path / "out.onnx.data", tmp_path / "out.onnx", **options)
    assert onnx.load(tmp_path / "out.onnx.data") == two_layers()
    assert (tmp_path / "out.onnx.1.data").exists()
    with pytest.raises(UsageError, match="holds weights"):
        compress(two_layers(), tmp_path / "out.onnx", plan_out=tmp_path / "out.onnx.1.data", **options)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link.onnx").symlink_to(tmp_path / "out.onnx")
    with pytest.raises(OutputError, match="link into another folder"):
        compress(two_layers(), tmp_path / "a" / "link.onnx", **options)
    assert load_whole(tmp_path / "out.onnx") == two_layers()


def test_weights_in_other_fields_move_too(tmp_path: Path) -> None:
    made = two_layers()
    weight = made.graph.initializer[0]
    weight.CopyFrom(onnx.helper.make_tensor(weight.name, 1, weight.dims, onnx.numpy_helper.to_array(weight).ravel()))
    assert weight.float_data
    compress(made, tmp_path / "out.onnx", benchmark=False, ranks="full", save_as_external_data=True)
    assert load_whole(tmp_path / "out.onnx") == two_layers()
    assert made.graph.initializer[0].float_data


@pytest.mark.parametrize(("ranks", "warned"), [("1", True), ("full", False)])
def test_a_model_that_is_hardly_of_use_is_warned_of(ranks: str, warned: bool, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    model = conv_model(rng.standard_normal((24, 24, 3, 3)).astype(np.float32))
    compress(model, ranks=ranks, data={"x": rng.standard_normal((8, 24, 8, 8)).astype(np.float32)}, benchmark=False)
    assert ("differs from the original's" in caplog.text) == warned


def test_an_input_that_changes_meanwhile_is_not_copied(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(two_layers(), source)

    def spoil(*_: object) -> None:
        source.write_bytes(b"half a checkpoint")

    with pytest.raises(ModelError, match="was changed while"):
        compress(source, tmp_path / "out.onnx", ranks="full", benchmark=False, progress=spoil)
    assert not (tmp_path / "out.onnx").exists()


def test_names_of_files_need_not_be_unicode(tmp_path: Path) -> None:
    data = tmp_path / "calib_\udce9.npz"
    try:
        np.savez(data, x=np.ones((2, 24, 16, 16), np.float32))
    except (OSError, UnicodeError):
        pytest.skip("there are no such names here")
    compress(two_layers(), ranks="full", benchmark=False, data=str(data), report=[tmp_path / "r.json"])
    assert "calib_" in json.loads((tmp_path / "r.json").read_text())["settings"]["data"][0]


def test_data_that_is_used_up_is_not_taken_for_none() -> None:
    for given in (iter(()), (part for part in ())):
        with pytest.raises(UsageError, match="no samples"):
            compress(two_layers(), data=given, benchmark=False)
    with pytest.raises(UsageError, match="--threads"):
        compress(two_layers(), threads="1", benchmark=False)


def test_factors_that_no_model_can_hold_are_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factorise, "LIMIT", 1000)
    with pytest.raises(TuckerError, match="--exclude"):
        compress(two_layers(), ranks=3, benchmark=False)


def test_what_data_says_nothing_of_is_told(caplog: pytest.LogCaptureFixture) -> None:
    made = two_layers()
    made.graph.node[0].op_type, made.graph.node[0].domain = "FusedConv", "com.microsoft"
    made.graph.node[0].attribute.append(helper.make_attribute("activation", "Relu"))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x = np.random.default_rng(0).standard_normal((20, 24, 16, 16)).astype(np.float32)
    compress(made, ranks=3, benchmark=False, data={"x": x})
    assert "Made from weights alone, whatever the data is: conv (it is in a body, or fused)." in caplog.text
    caplog.clear()
    compress(two_layers(), ranks=3, benchmark=False, data={"x": x})
    assert "weights alone" not in caplog.text


def test_a_plan_is_held_to_budgets_by_themselves() -> None:
    plan = compress(two_layers(), ranks=3, benchmark=False).plan
    assert compress(two_layers(), plan=plan, budget="flops:0.5", benchmark=False).plan.choices == plan.choices
    with pytest.raises(PromiseError, match=r"flops:0\.01"):
        compress(two_layers(), plan=plan, budget="flops:0.01", benchmark=False)


@pytest.mark.parametrize(("budget", "words"), [("flops:0.1", "those of conv are not known"), ("time:0.1", "timed")])
def test_what_a_plan_costs_is_not_taken_for_nothing(budget: str, words: str) -> None:
    """A model whose shapes are not known, and which does not run on random inputs."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], "conv"),
    ]
    weight = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    made = model(nodes, {"w": weight}, {"x": ["n", 16, 8, 8]}, {"y": 4})
    made.graph.input.append(helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [4]))
    plan = compress(made, ranks=2).plan
    with pytest.raises(PromiseError, match=words):
        compress(made, plan=plan, budget=budget)


def test_biases_are_counted_as_they_are_stored() -> None:
    """Two products share one; those that are fitted to data have each its own."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Gemm", ["x", "v", "b"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w", "b"], ["y"], "second"),
    ]
    tensors = {name: rng.standard_normal((16, 16)).astype(np.float32) for name in "vw"} | {"b": np.ones(16, np.float32)}
    made = model(nodes, tensors, {"x": ["n", 16]}, {"y": 2})
    data = {"x": rng.standard_normal((80, 16)).astype(np.float32)}
    for options, after in (({}, 16), ({"data": data}, 32), ({"data": data, "include": "first"}, 32)):
        result = compress(made, ranks=4, benchmark=False, **options)
        stored = [t for t in result.model.graph.initializer if list(t.dims) == [16]]
        assert result.report.totals.bias_params == Change(16, 16 * len(stored)) == Change(16, after)
