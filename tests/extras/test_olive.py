"""The tool as a pass of Olive, which is imported in a process of its own: it brings warnings, and much else."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.helpers import model

pytestmark = [pytest.mark.skipif(find_spec("olive") is None, reason="needs Olive"), pytest.mark.slow]

WORKFLOW = """
import sys
from olive.workflows import run
from onnx_tucker.extras.olive import package

passes = {"tucker": {"type": "OnnxTucker", "ranks": "4", "data": "x.npy", "benchmark": False, **eval(sys.argv[1])}}
source = {"type": "OnnxModel", "model_path": "in.onnx"}
run({"input_model": source, "passes": passes, "output_dir": "out", "cache_dir": "cache"}, package_config=package())
"""


def workflow(folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((20, 20)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    onnx.save(model(nodes, {"w": weight}, {"x": ["n", 20]}, {"y": 2}), folder / "in.onnx")
    np.save(folder / "x.npy", rng.standard_normal((100, 20)).astype(np.float32))
    command = [sys.executable, "-c", WORKFLOW, repr(options)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_recipe_gives_the_factorised_model(tmp_path: Path) -> None:
    done = workflow(tmp_path, save_as_external_data=True)
    assert done.returncode == 0, done.stderr
    made = onnx.load(tmp_path / "out" / "model.onnx")  # with its data file
    assert [node.name for node in made.graph.node] == ["product/svd/0", "product"]


def test_a_broken_promise_is_no_model(tmp_path: Path) -> None:
    done = workflow(tmp_path, max_error=1e-6)
    assert "relative error" in done.stdout + done.stderr
    assert not list(tmp_path.glob("out/**/*.onnx"))
