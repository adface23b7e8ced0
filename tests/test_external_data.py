"""External data: hostile locations are refused, and a result is whole at every moment."""

from __future__ import annotations

import multiprocessing
import os
import re
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

from onnx_tucker.cli import main
from tests.helpers import load_whole, low_rank, model, two_layers

Harm = Callable[[Path], dict[str, str]]
"""Prepares a folder with the model's folder "m" in it, and says what the entries of a tensor are to be."""


def outside(folder: Path) -> Path:
    secret = folder / "secret.bin"
    secret.write_bytes(bytes(100_000))
    return secret


def absolute(folder: Path) -> dict[str, str]:
    return {"location": str(outside(folder))}


def parent(folder: Path) -> dict[str, str]:
    outside(folder)
    return {"location": "../secret.bin"}


def parent_in_the_middle(folder: Path) -> dict[str, str]:
    outside(folder)
    (folder / "m" / "sub").mkdir()
    return {"location": "sub/../../secret.bin"}


def windows_drive(folder: Path) -> dict[str, str]:
    return {"location": "C:\\secret.bin"}


def windows_parent(folder: Path) -> dict[str, str]:
    outside(folder)
    return {"location": "..\\secret.bin"}


def link_out(folder: Path) -> dict[str, str]:
    (folder / "m" / "link.bin").symlink_to(outside(folder))
    return {"location": "link.bin"}


def linked_folder(folder: Path) -> dict[str, str]:
    outside(folder)
    (folder / "m" / "sub").symlink_to(folder)
    return {"location": "sub/secret.bin"}


def link_to_a_device(folder: Path) -> dict[str, str]:
    (folder / "m" / "zero.bin").symlink_to("/dev/zero")
    return {"location": "zero.bin"}


def device(folder: Path) -> dict[str, str]:
    return {"location": "/dev/zero"}


def pipe(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "m" / "pipe.bin")
    return {"location": "pipe.bin"}


def a_folder(folder: Path) -> dict[str, str]:
    (folder / "m" / "sub").mkdir()
    return {"location": "sub"}


def the_folder_itself(folder: Path) -> dict[str, str]:
    return {"location": "."}


def missing(folder: Path) -> dict[str, str]:
    return {"location": "none.bin"}


def no_location(folder: Path) -> dict[str, str]:
    return {"offset": "0"}


def null_character(folder: Path) -> dict[str, str]:
    return {"location": "a\0b"}


def with_data(**entries: str) -> Harm:
    def prepare(folder: Path) -> dict[str, str]:
        (folder / "m" / "data.bin").write_bytes(bytes(50_000))
        return {"location": "data.bin", **entries}

    return prepare


HOSTILE: dict[str, Harm] = {
    **{f.__name__: f for f in (absolute, parent, parent_in_the_middle, windows_drive, windows_parent, missing)},
    **{f.__name__: f for f in (link_out, linked_folder, link_to_a_device, device, pipe, a_folder)},
    **{f.__name__: f for f in (the_folder_itself, no_location, null_character)},
    "offset_past_the_end": with_data(offset="60000"),
    "offset_near_the_end": with_data(offset="49000"),
    "offset_negative": with_data(offset="-4"),
    "offset_no_number": with_data(offset="here"),
    "offset_enormous": with_data(offset=str(2**80)),
    "length_too_long": with_data(length="40000"),
    "length_too_short": with_data(length="16"),
    "length_negative": with_data(length="-27648"),
    "length_past_the_end": with_data(offset="30000", length="27648"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_locations_are_refused_in_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m").mkdir()
    made = two_layers()
    tensor = made.graph.initializer[0]
    assert len(tensor.raw_data) == 27648
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in HOSTILE[name](tmp_path).items():
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "m" / "in.onnx").write_bytes(made.SerializeToString())
    assert main([str(tmp_path / "m" / "in.onnx"), str(tmp_path / "out.onnx"), "--no-benchmark"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    [line] = err.strip().splitlines()
    assert "conv.weight" in line
    assert "cannot be used" in line
    assert not (tmp_path / "out.onnx").exists()


def test_links_within_the_folder_are_followed(tmp_path: Path) -> None:
    onnx.save_model(two_layers(), tmp_path / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").rename(tmp_path / "real.bin")
    (tmp_path / "w.bin").symlink_to("real.bin")
    assert main([str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx"), "--no-benchmark", "-q"]) == 0
    onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)


def test_a_model_and_its_data_may_be_links_into_one_folder(tmp_path: Path) -> None:
    """As in the caches of those who download models."""
    files, seen = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    files.mkdir()
    seen.mkdir(parents=True)
    onnx.save_model(two_layers(), files / "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    for name, stored in (("in.onnx", "3a7b"), ("w.bin", "9c1d")):
        (files / name).rename(files / stored)
        (seen / name).symlink_to(Path("../../blobs") / stored)
    command = [str(seen / "in.onnx"), str(tmp_path / "out.onnx"), "--no-benchmark", "-q"]
    for options in (["--ranks", "3"], ["--ranks", "full", "--no-lower", "--overwrite"]):  # changed, and not
        assert main([*command, *options]) == 0
        onnx.checker.check_model(tmp_path / "out.onnx", full_check=True)
    kept = {tensor.name: tensor.raw_data for tensor in load_whole(tmp_path / "out.onnx").graph.initializer}
    assert kept == {tensor.name: tensor.raw_data for tensor in two_layers().graph.initializer}
    (seen / "w.bin").unlink()
    (seen / "w.bin").symlink_to(outside(tmp_path))
    assert main([*command, "--overwrite"]) == 1


def big_model(folder: Path) -> Path:
    """A model with 24 MB of weights in a data file, of which one matrix is worth factorising."""
    rng = np.random.default_rng(0)
    tensors = {"low": low_rank(rng, 4, 64, 64), "rows": np.array([3, 5])}
    tensors |= {f"table{i}": rng.standard_normal((1000, 1500)).astype(np.float32) for i in range(4)}
    nodes = [helper.make_node("Gemm", ["x", "low"], ["y"], "low", transB=1)]
    nodes += [helper.make_node("Gather", [f"table{i}", "rows"], [f"part{i}"]) for i in range(4)]
    made = model(nodes, tensors, {"x": [1, 64]}, {"y": 2, **{f"part{i}": 2 for i in range(4)}})
    onnx.save_model(made, folder / "in.onnx", save_as_external_data=True, location="in.bin")
    return folder / "in.onnx"


OLD = "--ranks 8 --include low --no-benchmark --overwrite -q"
NEW = "--ranks 4 --include low --no-benchmark --overwrite -q"


def arguments(folder: Path, options: str) -> list[str]:
    return [str(folder / "in.onnx"), str(folder / "out.onnx"), *options.split()]


def writing(folder: Path, options: str) -> multiprocessing.process.BaseProcess:
    """The program at the moment at which it has begun to write: its first temporary file is there.

    It runs in a copy of a process that has imported it, which takes longer than all that it does here.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["onnx_tucker.cli"])
    process = context.Process(target=main, args=(arguments(folder, options),))
    process.start()
    while process.is_alive() and not any(folder.glob(".*.tmp")):
        time.sleep(0.001)
    return process


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system cannot kill so")
def test_killed_at_any_moment_the_old_result_or_the_new_one_is_whole(tmp_path: Path) -> None:
    big_model(tmp_path)
    whole = {}
    for options in (OLD, NEW):
        process = writing(tmp_path, options)
        begun = time.perf_counter()
        while any(tmp_path.glob(".*.tmp")):
            time.sleep(0.001)
        duration = time.perf_counter() - begun
        process.join()
        assert process.exitcode == 0
        whole[options] = load_whole(tmp_path / "out.onnx").SerializeToString(deterministic=True)
    assert whole[OLD] != whole[NEW]
    rng = np.random.default_rng(int(time.time()))
    moments = {"while": 0, "after": 0}
    current = NEW
    for turn in range(50):
        wanted = OLD if current == NEW else NEW
        process = writing(tmp_path, wanted)
        moment = rng.uniform(0, duration)
        time.sleep(moment)
        running = process.is_alive()
        process.kill()
        process.join()
        found = load_whole(tmp_path / "out.onnx").SerializeToString(deterministic=True)
        assert found in whole.values(), f"turn {turn}, killed {moment:.3f} s into the writing"
        if found == whole[wanted]:
            duration *= 0.9  # the disk is faster than it was: later moments would be behind the writing
        moments["while" if running and found != whole[wanted] else "after"] += 1
        current = next(options for options, content in whole.items() if content == found)
        results = {path.name for path in tmp_path.iterdir() if not path.name.startswith(".")}
        others = results - {"in.onnx", "in.bin", "out.onnx"}
        assert all(re.fullmatch(r"out\.onnx(\.\d+)?\.data", name) for name in others)
        for path in tmp_path.glob(".*.tmp"):
            assert path.suffix == ".tmp"
            path.unlink()
    assert moments["while"] >= 10, moments
    subprocess.run([sys.executable, "-m", "onnx_tucker", *arguments(tmp_path, NEW)], check=True)
    assert load_whole(tmp_path / "out.onnx").SerializeToString(deterministic=True) == whole[NEW]
