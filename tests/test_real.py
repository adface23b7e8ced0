"""Trained models of other people, where they are present beside the checkout."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_tucker import compress
from onnx_tucker.cli import main
from onnx_tucker.errors import PromiseError
from tests.helpers import REAL, relative, run

TASKS = {  # and the sizes that are timed
    "voxel_trees": "",
    "docking_cnn": "--input-shape x:1,28,48,48,48",
    "brain_meshnet": "--input-shape x:1,1,32,32,32",
    "cifar_resnet20": "",
    "crepe_tiny": "",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not REAL.is_dir(), reason="the real models are not beside this checkout"),
    pytest.mark.parametrize("task", TASKS),
]


@pytest.mark.parametrize("ranks", ["vbmf", "full"])
def test_a_real_model(task: str, ranks: str, tmp_path: Path) -> None:
    source = REAL / task / "model.onnx"
    options = ["--ranks", ranks, *TASKS[task].split(), "--cache", str(tmp_path / "cache"), "--tune-seconds", "10"]
    for name in ("a.onnx", "b.onnx"):
        report = tmp_path / f"{name}.json"
        assert main([str(source), str(tmp_path / name), "--report", str(report), "-q", *options]) == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    onnx.checker.check_model(str(tmp_path / "a.onnx"), full_check=True)
    before, after = onnx.load(source), onnx.load(tmp_path / "a.onnx")
    for field in ("ir_version", "opset_import", "producer_name", "functions"):
        assert getattr(before, field) == getattr(after, field)
    assert list(before.metadata_props) == [entry for entry in after.metadata_props if entry.key != "onnx_tucker"]
    assert before.graph.input == after.graph.input
    assert before.graph.output == after.graph.output
    document = json.loads((tmp_path / "a.onnx.json").read_text())
    linear = [n for n in before.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert [n["name"] for n in document["nodes"]] == [n.name for n in linear]
    assert all(n["status"] == "factorized" or n["reason"] for n in document["nodes"])
    assert all(n["flops"]["before"] for n in document["nodes"])
    assert (
        document["totals"]["speedup"] >= 1
        or document["totals"]["params"]["before"] == document["totals"]["params"]["after"]
    )
    with np.load(REAL / task / "calib.npz", allow_pickle=False) as data:
        x = data["x"].astype(np.float32)[:2]
    x = x[:1] if task == "brain_meshnet" else x
    pairs = zip(run(before, x=x), run(after, x=x), strict=True)
    errors = [relative(a, b) for a, b in pairs]
    assert all(np.isfinite(errors))
    if ranks == "full":
        assert max(errors) <= 1e-4


def _score(task: str, run_: Callable[[dict[str, Any]], dict[str, Any]], part: slice) -> float:
    """How well a model does on some of the labelled samples, as the task is scored."""
    scoring = _scoring()
    metric, batch, prepare = scoring.TASKS[task]
    with np.load(REAL / task / "test.npz", allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    if task == "brain_meshnet":  # one scan, of which some slices are as good as some samples
        data = {"x": data["x"][:, :, part], "y": data["y"][part]}
    else:
        data = {key: array[part] for key, array in data.items()}
    x = prepare(data) if prepare else data["x"].astype(np.float32)
    outputs = [next(iter(run_({"x": x[i : i + batch]}).values())) for i in range(0, len(x), batch)]
    return float(metric(np.concatenate(outputs), data))


def _scoring() -> Any:
    spec = importlib.util.spec_from_file_location("score", REAL / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_promised_score_holds_on_other_samples(task: str, tmp_path: Path) -> None:
    """Held on every second labelled sample by giving layers back, and within one more point on the others."""
    single = task == "brain_meshnet"
    shown, hidden = (slice(48), slice(48, None)) if single else (slice(0, None, 2), slice(1, None, 2))
    with np.load(REAL / task / "calib.npz", allow_pickle=False) as data:
        x = data["x"][: {"crepe_tiny": 16, "voxel_trees": 128}.get(task, 64)]  # or fits take minutes
    x = x[..., 20:44, 20:44, 20:44] if single else x
    options: dict[str, Any] = {"ranks": "vbmf", "data": {"x": x}, "benchmark": False}
    target = tmp_path / "out.onnx"
    try:
        compress(REAL / task / "model.onnx", target, **options, max_drop=0.01, eval=lambda r: _score(task, r, shown))
    except PromiseError:
        assert task == "crepe_tiny"  # which any one layer ruins at these ranks
        assert not target.exists()
        return
    before, after = (
        _score(task, lambda feed, p=path: {"y": run(onnx.load(p), **feed)[0]}, hidden)
        for path in (REAL / task / "model.onnx", target)
    )
    assert after >= before - 0.02
