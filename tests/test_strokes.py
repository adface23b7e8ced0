"""The thesis network at the thesis's ranks gives the thesis's table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnx_tucker.cli import main
from tests.helpers import ROOT, STROKES

NODES = ("conv1", "conv2", "fc1", "fc2", "fc3")
BEFORE = (14_520, 58_080, 358_400, 10_752, 168)
AFTER = (4_852, 3_690, 14_266, 212, 168)
FLOPS = (15_618_892_800, 697_158_000, 716_800, 21_504, 336)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("one report")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("strokes")
    ranks = ROOT / "models" / "thesis_ranks.toml"
    options = f"--ranks {ranks} --no-lower --keep-slower --flops thesis --no-cache --report {folder}/r.json"
    assert main([str(STROKES), str(folder / "out.onnx"), *options.split()]) == 0
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
    return json.loads((folder / "r.json").read_text())  # type: ignore[no-any-return]


def test_parameters_node_by_node(report: dict[str, Any]) -> None:
    assert tuple(n["name"] for n in report["nodes"]) == NODES
    assert tuple(n["params"]["before"] for n in report["nodes"]) == BEFORE
    assert tuple(n["params"]["after"] for n in report["nodes"]) == AFTER
    assert report["totals"]["params"] == {"before": 441_920, "after": 23_188}
    assert report["totals"]["bias_params"] == {"before": 236, "after": 236}


def test_flops_of_the_original(report: dict[str, Any]) -> None:
    assert tuple(n["flops"]["before"] for n in report["nodes"]) == FLOPS


def test_everything_is_timed(report: dict[str, Any]) -> None:
    assert all(n["time_ms"]["before"] > 0 and n["time_ms"]["after"] > 0 for n in report["nodes"])
    low, high = report["totals"]["speedup_ci"]
    assert low <= report["totals"]["speedup"] <= high
    assert sum(n["time_share"] for n in report["nodes"]) > 0.5


def test_full_rank_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert main([str(STROKES), str(out), "--ranks", "full", "--no-benchmark"]) == 0
    assert out.read_bytes() == STROKES.read_bytes()
