"""The programs that measure what the docs say, on a model of two layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.helpers import run, two_layers

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCORE = """
import json, sys
from pathlib import Path
import numpy as np, onnxruntime as ort

def agreement(outputs, data):
    return float(np.mean(outputs.argmax(1) == data["labels"]))

TASKS = {"tiny": (agreement, 16, None)}

if __name__ == "__main__":
    with np.load(Path(__file__).parent / "tiny" / "test.npz", allow_pickle=False) as file:
        data = dict(file)
    outputs = ort.InferenceSession(sys.argv[2]).run(None, {"x": data["x"]})[0]
    print(json.dumps({"score": agreement(outputs, data)}))
"""
"""Of a folder of models, as `--real` takes it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """That, with one model in it, which is right about all of its samples."""
    rng, made, tiny = np.random.default_rng(0), two_layers(), tmp_path / "tiny"
    tiny.mkdir()
    onnx.save(made, tiny / "model.onnx")
    calib, test = (rng.standard_normal((80, 24, 16, 16)).astype(np.float32) for _ in range(2))
    np.savez(tiny / "calib.npz", x=calib)
    np.savez(tiny / "test.npz", x=test, labels=run(made, x=test)[0].argmax(1))
    (tmp_path / "score.py").write_text(SCORE, encoding="utf-8")
    return tmp_path


def measured(program: str, folder: Path, *options: str) -> str:
    """What a program prints of the model."""
    args = [sys.executable, BENCHMARKS / program, "--real", folder, "--only", "tiny", "--rows", folder / "rows.json"]
    done = subprocess.run([*args, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_fidelity(folder: Path) -> None:
    text = measured("fidelity.py", folder, "--share", "0.5", "--seed", "0", "--seed", "1")
    assert "Worst of seeds 0, 1" in text
    [row] = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    assert row["original"] == 1
    assert row["scores"].keys() == row["shares"].keys() == {"textbook", "whitened", "ours"}
    assert row["scores"]["ours"] > 0.9
    assert row["shares"]["ours"] <= 0.5


@pytest.mark.slow
def test_search(folder: Path) -> None:
    text = measured("search.py", folder, "--threads", "1", "--part", "budgets", "--budget", "flops:0.5")
    assert "| tiny | 1.0000 | flops:0.5 |" in text


@pytest.mark.slow
def test_finetune(folder: Path) -> None:
    pytest.importorskip("onnx2torch")
    text = measured("finetune.py", folder, "--threads", "1", "--ranks", "flops:0.5", "--epochs", "1")
    assert "| tiny | flops:0.5 | 80 | 1 | 1 | 1.0000 |" in text
