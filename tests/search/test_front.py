"""The front between the original and the cheapest model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_tucker
from onnx_tucker import compress
from onnx_tucker.cli import main
from onnx_tucker.errors import OutputError, UsageError
from onnx_tucker.report.front import FORMATS
from tests.helpers import Array, run
from tests.search.test_allocate import uneven


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and data in files."""
    place = tmp_path_factory.mktemp("front")
    made, x = uneven()
    onnx.save(made, place / "in.onnx")
    np.savez(place / "data.npz", x=x)
    return place


def test_each_point_loses_less_than_all_that_cost_less_and_its_plan_makes_it_again(folder: Path) -> None:
    source, data = folder / "in.onnx", folder / "data.npz"
    steps = list[tuple[str, int]]()

    def noted(what: str, done: int, of: int) -> None:
        steps.append((what, done))

    front = onnx_tucker.sweep(source, data=data, benchmark=False, points=8, progress=noted)
    assert len(front.points) == 8
    assert steps.count(("trying what chains are made from", 0)) == 1
    assert front.quantity == "flops"
    costs, errors = [s.shares["flops"] for s in front.points], [s.error for s in front.points]
    assert costs == sorted(set(costs), reverse=True)
    assert errors == sorted(set(errors))
    for spot in front.points:
        again = compress(source, plan=spot.plan, data=data, benchmark=False)
        assert again.report.fidelity is not None
        assert again.report.fidelity.outputs[0].relative_l2 == spot.outputs[0].relative_l2
        assert again.report.totals.flops.after == pytest.approx(spot.shares["flops"] * again.report.totals.flops.before)


def test_without_data_it_is_said_once_that_accuracy_is_unguarded(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert len(onnx_tucker.sweep(folder / "in.onnx", benchmark=False, points=3).points) == 3
    assert caplog.text.count("nothing guards the accuracy") == 1


def test_others_take_the_place_of_what_turns_out_no_better(folder: Path) -> None:
    assert len(onnx_tucker.sweep(folder / "in.onnx", benchmark=False, points=8).points) == 8


def test_nothing_cheaper_is_made_than_what_is_worse_than_nothing() -> None:
    """As chains of inputs far from zero may be, whose bias takes that away."""
    made, _ = uneven()
    weight, bias = made.graph.initializer[:2]
    far = np.full(32, 3, np.float32)
    bias.CopyFrom(numpy_helper.from_array(-far @ numpy_helper.to_array(weight), bias.name))
    made.graph.initializer.append(numpy_helper.from_array(far, "far"))
    made.graph.node[0].input[0] = "s"
    made.graph.node.insert(0, helper.make_node("Add", ["x", "far"], ["s"]))
    last = onnx_tucker.sweep(made, benchmark=False, points=8).points[-1]
    assert last.error > 1
    assert last.shares["flops"] > 0.2


def test_the_command_line_writes_reports_and_plans(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def score(run):\n    return 1.0\n")
    (tmp_path / "plans").mkdir()
    reports = [tmp_path / f"front{ending}" for ending in FORMATS]
    options = ["--data", str(folder / "data.npz"), "--no-cache", "--no-benchmark", "-q", "--points", "4", "--jobs", "2"]
    options += ["--eval", f"{tmp_path / 'score.py'}:score", "--plans", str(tmp_path / "plans")]
    for path in reports:
        options += ["--report", str(path)]
    assert main(["sweep", str(folder / "in.onnx"), *options]) == 0
    document = json.loads(reports[0].read_text())
    assert document["schema"] == "onnx-tucker/front/1"
    assert {point["score"] for point in document["points"]} == {document["original_score"]} == {1.0}
    plans = sorted((tmp_path / "plans").iterdir())
    assert [json.loads(path.read_text()) for path in plans] == [point["plan"] for point in document["points"]]
    assert all(path.read_text().strip() for path in reports)
    assert main(["sweep", str(folder / "in.onnx"), *options]) == 1  # the files are there
    mine = tmp_path / "plans" / "plan-99.json"
    mine.touch()
    options[options.index("--points") + 1] = "2"
    assert main(["sweep", str(folder / "in.onnx"), *options, "--overwrite"]) == 0
    assert sorted((tmp_path / "plans").iterdir()) == [*plans[:2], mine]


def test_times_are_the_cost_where_they_are_measured(folder: Path) -> None:
    front = onnx_tucker.sweep(folder / "in.onnx", data=folder / "data.npz", points=3)
    assert front.quantity == "time"
    for spot in front.points:
        assert spot.speedup is not None
        assert spot.shares["time"] == pytest.approx(1 / spot.speedup)


def test_a_score_is_that_of_each_model(folder: Path) -> None:
    made = onnx.load(folder / "in.onnx")
    x = np.load(folder / "data.npz", allow_pickle=False)["x"]
    expected = run(made, x=x)[0]

    def closeness(run_: Callable[[Mapping[str, Array]], Mapping[str, Array]]) -> float:
        return -float(np.abs(run_({"x": x})["y"] - expected).max())

    front = onnx_tucker.sweep(made, data={"x": x}, eval=closeness, benchmark=False, points=4)
    assert front.original_score == 0.0
    scores = [spot.score for spot in front.points]
    assert scores[-1] is not None
    assert scores[-1] < 0


def test_a_model_without_a_score_says_nothing_of_cheaper_ones(folder: Path) -> None:
    x = np.load(folder / "data.npz", allow_pickle=False)["x"]

    def cheapest(unknown: int) -> float:
        asked = itertools.count()
        front = onnx_tucker.sweep(
            folder / "in.onnx",
            data={"x": x},
            eval=lambda run: float("nan") if next(asked) == unknown else 1.0,
            benchmark=False,
            points=8,
        )
        return front.points[-1].shares["flops"]

    assert cheapest(7) == pytest.approx(cheapest(-1), rel=0.5)


@pytest.mark.parametrize("overwrite", [True, False])
def test_plans_of_an_earlier_sweep_go_only_where_files_may_be_overwritten_and_no_report_does(
    folder: Path, tmp_path: Path, overwrite: bool
) -> None:
    report, earlier = tmp_path / "plan-03.json", tmp_path / "plan-04.json"
    options = {"data": folder / "data.npz", "benchmark": False, "points": 2, "plans": tmp_path, "overwrite": overwrite}
    earlier.touch()
    onnx_tucker.sweep(folder / "in.onnx", report=report, **options)
    assert earlier.exists() is not overwrite
    assert {path.name for path in tmp_path.iterdir()} - {earlier.name} == {"plan-01.json", "plan-02.json", report.name}


def test_nonsense_is_refused(folder: Path, tmp_path: Path) -> None:
    for options, kind in (
        ({"points": 1}, UsageError),
        ({"report": tmp_path / "front.txt"}, UsageError),
        ({"plans": tmp_path / "none"}, OutputError),
        ({"plans": 5}, UsageError),
        ({"report": folder / "in.onnx", "overwrite": True}, UsageError),
    ):
        with pytest.raises(kind):
            onnx_tucker.sweep(folder / "in.onnx", **options)
