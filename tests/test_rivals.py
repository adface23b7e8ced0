from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_tucker
from onnx_tucker.cli import main
from onnx_tucker.errors import ModelError, UsageError
from onnx_tucker.rivals import bench
from tests.helpers import conv_model, low_rank, two_layers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(two_layers(), "a.onnx")
    small = two_layers()
    del small.graph.node[1:]
    small.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("c", 1, [None] * 4))
    onnx.save(small, "b.onnx")
    onnx.save(conv_model(low_rank(np.random.default_rng(0), 2, 8, 8, 3)), "c.onnx")
    return tmp_path


def test_models_are_compared_with_the_first(folder: Path) -> None:
    result = bench(["a.onnx", "b.onnx", "a.onnx"], seconds=0.3, threads=1)
    assert result.models == ("a.onnx", "b.onnx", "a.onnx")
    assert result.timings[0].speedup == 1
    assert all(t.ms > 0 for t in result.timings)


def test_the_command_prints_a_table_or_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("bench a.onnx b.onnx --seconds 0.05 --threads 1".split()) == 0
    out = capsys.readouterr().out
    assert "a.onnx" in out
    assert "x1.00" in out
    assert main("bench a.onnx b.onnx --seconds 0.05 --json".split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnx-tucker/bench/1"
    assert [row["model"] for row in document["models"]] == ["a.onnx", "b.onnx"]
    assert document["environment"]["allocator"] == "arena"


def test_models_with_other_inputs_are_refused(folder: Path) -> None:
    with pytest.raises((UsageError, ModelError), match=r"c\.onnx"):
        bench(["a.onnx", "c.onnx"], seconds=0.1)
    with pytest.raises(UsageError, match="--seconds"):
        bench(["a.onnx"], seconds=0)
    with pytest.raises(ModelError):
        bench(["missing.onnx"])


def test_models_may_be_in_memory(folder: Path) -> None:
    first, second = onnx.load("a.onnx"), onnx.load("b.onnx")
    result = onnx_tucker.bench([first, "b.onnx", second], seconds=0.1, threads=1)
    assert result.models == ("model 1", "b.onnx", "model 3")
    assert [row[0] for row in result.rows] == list(result.models)
    with pytest.raises((UsageError, ModelError), match="model 2"):
        onnx_tucker.bench([first, onnx.load("c.onnx")], seconds=0.1)
    with pytest.raises(UsageError, match="no model"):
        onnx_tucker.bench([])
