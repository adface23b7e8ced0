"""Interrupted at any moment: nothing is written but the cache, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.helpers import model

RNG = np.random.default_rng(0)


def network(folder: Path) -> None:
    """Two 2D convolutions with rectifiers, and data."""
    nodes, tensors = [], {}
    for i in range(2):
        tensors[f"w{i}"] = (RNG.standard_normal((16, 16, 3, 3)) / 12).astype(np.float32)
        tensors[f"b{i}"] = np.zeros(16, np.float32)
        nodes.append(helper.make_node("Conv", [f"v{i}", f"w{i}", f"b{i}"], [f"c{i}"], f"conv{i}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"v{i + 1}"]))
    onnx.save(model(nodes, tensors, {"v0": ["n", 16, 12, 12]}, {"v2": 4}), folder / "in.onnx")
    np.savez(folder / "data.npz", v0=RNG.standard_normal((96, 16, 12, 12)).astype(np.float32))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise there")
def test_interrupted_at_any_moment_and_resumed(tmp_path: Path) -> None:
    network(tmp_path)

    def command(cache: str, output: str) -> list[str]:
        options = f"--ranks auto --max-error 0.3 --data data.npz --threads 1 --cache {cache} -q"
        return [sys.executable, "-m", "onnx_tucker", "in.onnx", output, *options.split()]

    began = time.perf_counter()
    assert subprocess.run(command("cache", "out.onnx"), cwd=tmp_path).returncode == 0
    whole = time.perf_counter() - began
    interrupted = 0
    for share in np.linspace(0.05, 0.95, 7):
        process = subprocess.Popen(command("other", "late.onnx"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        time.sleep(share * whole)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        if process.returncode:
            interrupted += 1
            assert process.returncode == 130, said
            assert said.strip() == "onnx-tucker: error: Interrupted; nothing was written."
            assert not (tmp_path / "late.onnx").exists()
            assert not list(tmp_path.glob(".*"))
        (tmp_path / "late.onnx").unlink(missing_ok=True)
    assert interrupted >= 3
    for name in ("late.onnx", "later.onnx"):
        assert subprocess.run(command("other", name), cwd=tmp_path).returncode == 0
    files = [tmp_path / name for name in ("late.onnx", "later.onnx")]
    assert files[0].read_bytes() == files[1].read_bytes()
