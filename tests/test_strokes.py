"""The thesis network at the thesis's ranks gives the thesis's table."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from onnx_tucker.cli import main
from tests.helpers import ROOT, STROKES

NODES = ("conv1", "conv2", "fc1", "fc2", "fc3")
BEFORE = (14_520, 58_080, 358_400, 10_752, 168)
AFTER = (4_852, 3_690, 14_266, 212, 168)
FLOPS = (15_618_892_800, 697_158_000, 716_800, 21_504, 336)

pytestmark = pytest.mark.slow


def test_the_report_is_the_table(tmp_path: Path) -> None:
    ranks = ROOT / "models" / "thesis_ranks.toml"
    options = f"--ranks {ranks} --no-lower --keep-slower --flops thesis --no-cache --report {tmp_path}/r.json"
    assert main([str(STROKES), str(tmp_path / "out.onnx"), *options.split()]) == 0
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)
    report = json.loads((tmp_path / "r.json").read_text())
    nodes, totals = report["nodes"], report["totals"]
    assert tuple(n["name"] for n in nodes) == NODES
    assert tuple(n["params"]["before"] for n in nodes) == BEFORE
    assert tuple(n["params"]["after"] for n in nodes) == AFTER
    assert totals["params"] == {"before": 441_920, "after": 23_188}
    assert totals["bias_params"] == {"before": 236, "after": 236}
    assert tuple(n["flops"]["before"] for n in nodes) == FLOPS
    assert all(n["time_ms"]["before"] > 0 and n["time_ms"]["after"] > 0 for n in nodes)
    low, high = totals["speedup_ci"]
    assert low <= totals["speedup"] <= high
    assert sum(n["time_share"] for n in nodes) > 0.5


def test_full_rank_changes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert main([str(STROKES), str(out), "--ranks", "full", "--no-benchmark"]) == 0
    assert out.read_bytes() == STROKES.read_bytes()
