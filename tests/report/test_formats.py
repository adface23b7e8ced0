"""Every report format, on a report with known, unknown and awkward values."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from onnx_tucker.errors import UsageError
from onnx_tucker.report import FORMATS, render
from onnx_tucker.report.schema import (
    Change,
    Fidelity,
    NodeError,
    NodeReport,
    Report,
    Totals,
    total,
)
from onnx_tucker.report.terminal import show
from onnx_tucker.types import Closeness

KEPT = NodeReport(
    name="blocks/[0]|<b>",
    op="Conv",
    shape=(8, 4, 3, 3),
    status="kept",
    reason="measured x0.90 with tucker2 2,3",
    method=None,
    form=None,
    ranks=None,
    params=Change(288, 288),
    bias_params=Change(8, 8),
    macs=Change(None, None),
    flops=Change(None, None),
    time_ms=Change(None, None),
    time_spread_ms=Change(None, None),
    in_situ_ms=Change(None, None),
    speedup=None,
    speedup_ci=None,
    time_share=None,
    error=NodeError(),
)
DONE = replace(
    KEPT,
    name="fc",
    op="Gemm",
    shape=(64, 512),
    status="factorized",
    reason="",
    method="svd",
    form="direct",
    ranks=(3,),
    params=Change(32768, 1728),
    macs=Change(32768, 1728),
    flops=Change(65536, 3400),
    time_ms=Change(0.5, 0.05),
    time_spread_ms=Change(0.01, 0.01),
    in_situ_ms=Change(0.4, 0.06),
    speedup=10.0,
    speedup_ci=(9.0, 11.0),
    time_share=0.4,
    error=NodeError(0.125, float("nan")),
)
REPORT = Report(
    nodes=(KEPT, DONE),
    totals=Totals(
        params=Change(33056, 2016),
        bias_params=Change(8, 8),
        macs=Change(None, None),
        flops=Change(None, None),
        file_bytes=Change(140_000, None),
        time_ms=Change(1.0, 0.5),
        time_spread_ms=Change(0.1, 0.1),
        speedup=2.0,
        speedup_ci=(1.9, 2.1),
        score=Change(0.9, 0.875),
    ),
    fidelity=Fidelity("random", 4, (Closeness("y", 0.03, 0.5, 0.99, 30.4, None),)),
    environment={
        "cpu": "a CPU",
        "threads": 2,
        "onnxruntime": "1.0",
        "onnx_tucker": "0.1",
        "python": "3",
        "remembered_times": True,
    },
    settings={"ranks": "vbmf", "flops": "exact"},
)


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_names_every_node(ending: str) -> None:
    text = render(REPORT, Path(f"r{ending}"))
    assert "fc" in text
    assert "measured x0.90" in text
    assert text.endswith("\n")


def test_what_times_are_is_said_where_there_are_some() -> None:
    untimed = replace(REPORT, nodes=[replace(node, time_ms=Change(None, None)) for node in REPORT.nodes])
    for report, said in ((REPORT, True), (untimed, False)):
        assert ("Node times are" in render(report, Path("r.md"))) is said


def test_json_has_the_contracts_fields() -> None:
    document = json.loads(render(REPORT, Path("r.json")))
    assert document["schema"] == "onnx-tucker/report/1"
    assert set(document) == {"schema", "nodes", "totals", "fidelity", "environment", "settings"}
    node = document["nodes"][1]
    wanted = "name op status reason method form ranks params macs flops time_ms speedup time_share error"
    assert set(wanted.split()) <= set(node)
    assert node["params"] == {"before": 32768, "after": 1728}
    assert node["ranks"] == [3]
    assert node["error"] == {"weight": 0.125, "output": None}  # NaN is no JSON, and unknown is null
    assert document["nodes"][0]["time_ms"] == {"before": None, "after": None}
    assert set("params macs flops file_bytes time_ms speedup speedup_ci".split()) <= set(document["totals"])
    assert document["totals"]["speedup_ci"] == [1.9, 2.1]
    assert set(document["fidelity"]["outputs"][0]) == {
        "name",
        "relative_l2",
        "max_abs",
        "cosine",
        "snr_db",
        "argmax_agreement",
        "parts",
        "finite",
        "effective_samples",
    }


def test_csv_has_a_row_for_each_node() -> None:
    rows = list(csv.DictReader(io.StringIO(render(REPORT, Path("r.csv")))))
    assert [r["name"] for r in rows] == ["blocks/[0]|<b>", "fc"]
    assert rows[1]["params_after"] == "1728"
    assert rows[1]["shape"] == "64x512"
    assert rows[0]["time_ms_before"] == ""


def test_names_do_not_break_the_markup() -> None:
    assert "blocks/[0]|&lt;b&gt;" in render(REPORT, Path("r.html"))
    assert "blocks/[0]\\|&lt;b>" in render(REPORT, Path("r.md"))
    out = io.StringIO()
    show(REPORT, Console(file=out, width=250))
    assert "blocks/[0]|<b>" in out.getvalue()


def test_random_inputs_are_said_to_be_random() -> None:
    for ending in (".md", ".html"):
        assert "random noise (no --data), which says little" in render(REPORT, Path(f"r{ending}"))


def test_unknown_endings_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\.json, \.md, \.html, \.csv"):
        render(REPORT, Path("r.txt"))


def test_a_total_with_an_unknown_part_is_unknown() -> None:
    assert total([Change(1, 2), Change(3, 4)]) == Change(4, 6)
    assert total([Change(1, 2), Change(3, None)]) == Change(4, None)
    assert total([]) == Change(0, 0)


def test_shares_are_of_what_is_known() -> None:
    known = replace(REPORT.totals, speedup=4.0, file_bytes=Change(200, 50))
    shares = replace(REPORT, totals=known).shares()
    assert shares == {"time": 0.25, "flops": 3400 / 65536, "params": 2016 / 33056, "bytes": 0.25}
    unknown = replace(known, speedup=None, file_bytes=Change(200, None))
    assert replace(REPORT, nodes=(KEPT,), totals=unknown).shares() == {"params": 1.0}


def test_multiplications_on_frames_are_told() -> None:
    whole = replace(REPORT.totals, macs=Change(32768, 1728), flops=Change(65536, 3400))
    framed = replace(REPORT, nodes=(replace(DONE, form="frames_in", form_macs=16384),), totals=whole)
    assert "FLOPs x19.28 (multiplications x2.00 as they are computed, on frames)" in render(framed, Path("r.md"))
    assert json.loads(render(framed, Path("r.json")))["nodes"][0]["form_macs"] == 16384
    assert "as they are computed" not in render(replace(framed, nodes=(DONE,)), Path("r.md"))


def test_a_report_without_nodes() -> None:
    empty = replace(REPORT, nodes=(), fidelity=None)
    texts = {ending: render(empty, Path(f"r{ending}")) for ending in FORMATS}
    assert json.loads(texts[".json"])["nodes"] == []
    assert all("0 of 0 factorized" in texts[ending] for ending in (".md", ".html"))
    assert len(texts[".csv"].splitlines()) == 1
