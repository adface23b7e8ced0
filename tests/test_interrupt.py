"""Interrupted at any moment: nothing is written but the cache, and the next run goes on from there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.helpers import model

RNG = np.random.default_rng(0)
PROGRAM = """
import runpy, signal, sys

def told(event, given):
    if event == "import" and given[0] == "onnx_tucker.cli":
        print("started", flush=True)

sys.addaudithook(told)
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("onnx_tucker", run_name="__main__", alter_sys=True)
"""
"""The command line, which tells when it begins to import what it needs; Python may swallow interrupts before that.

They are not ignored, as they are in what a shell runs in the background, these tests perhaps.
"""


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
        return [sys.executable, "-c", PROGRAM, "in.onnx", output, *options.split()]

    assert subprocess.run(command("cache", "out.onnx"), cwd=tmp_path).returncode == 0

    def interrupt(cache: str, moment: Callable[[], bool]) -> bool:
        """Whether a run was interrupted as soon as it was time to, rather than over by then."""
        process = subprocess.Popen(
            command(cache, "late.onnx"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        while process.poll() is None and not moment():
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        if not process.returncode:
            (tmp_path / "late.onnx").unlink()
            return False
        assert process.returncode == 130, said
        assert said.strip() == "onnx-tucker: error: Interrupted; outputs are whole or absent."
        assert not (tmp_path / "late.onnx").exists()
        assert not list(tmp_path.glob(".*"))
        return True

    def after(seconds: float) -> Callable[[], bool]:
        known: list[float] = []  # when it was asked first

        def over() -> bool:
            known.append(time.perf_counter())
            return known[-1] - known[0] >= seconds

        return over

    def known(share: float) -> Callable[[], bool]:
        most = len(list((tmp_path / "cache").rglob("measured/*")))
        return lambda: len(list((tmp_path / "other").rglob("measured/*"))) > share * most

    # While modules are imported.
    assert sum(interrupt("first", after(seconds)) for seconds in (0.0, 0.1, 0.3, 0.6)) >= 2
    # Each goes on from the one before.
    assert sum(interrupt("other", known(share)) for share in (0, 0.1, 0.3, 0.6, 0.9)) >= 3
    for name in ("late.onnx", "later.onnx"):
        assert subprocess.run(command("other", name), cwd=tmp_path).returncode == 0
    files = [tmp_path / name for name in ("late.onnx", "later.onnx")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="signals are sent otherwise there")
@pytest.mark.parametrize("wait", [0.0, 0.01, 0.03, 0.1])
def test_an_interrupt_that_comes_when_outputs_are_in_their_places_is_too_late(tmp_path: Path, wait: float) -> None:
    network(tmp_path)
    command = [sys.executable, "-c", PROGRAM, "in.onnx", "out.onnx", "--ranks", "4", "--no-benchmark", "--no-cache"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "out.onnx").exists():
        time.sleep(0.001)
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate()
    assert process.returncode == 0, said
    assert "2 of 2 factorized" in printed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
@pytest.mark.parametrize(
    ("options", "code"), [("--ranks 4", 0), ("--ranks none", 2), ("--ranks 4 --max-error 0 -v", 3)]
)
def test_where_nothing_can_be_said_exit_codes_are_the_same(tmp_path: Path, options: str, code: int) -> None:
    network(tmp_path)
    command = [sys.executable, "-m", "onnx_tucker", "in.onnx", "out.onnx", "--no-benchmark", "--no-cache"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*command, *options.split()], cwd=tmp_path, stdout=full, stderr=full, check=False)
    assert done.returncode == code
    assert (tmp_path / "out.onnx").exists() == (code == 0)
