from __future__ import annotations

import errno
import os
from pathlib import Path

import onnx
import pytest

from onnx_tucker.errors import OutputError
from onnx_tucker.graph.staging import Staging, check_target, free_data_path, superseded
from tests.helpers import two_layers


def write(path: Path, content: bytes, *more: Path) -> None:
    """Writes the same to some files."""
    with Staging(overwrite=True) as staging:
        for each in (path, *more):
            staging.write(each, content)
        staging.commit()


def test_a_data_file_takes_no_name_that_anything_needs(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save_model(two_layers(), path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    assert free_data_path(path, taken=()).name == "m.onnx.1.data"
    (tmp_path / "m.onnx.1.data").write_bytes(b"somebody's")
    assert free_data_path(path, taken=()).name == "m.onnx.2.data"
    assert free_data_path(path, taken=[tmp_path / "m.onnx.2.data"]).name == "m.onnx.3.data"
    assert superseded(path, read=()) == [tmp_path / "m.onnx.data"]
    assert superseded(path, read=[tmp_path / "m.onnx.data"]) == []
    assert superseded(tmp_path / "none.onnx", read=()) == []


def test_targets_are_checked_before_any_work(tmp_path: Path) -> None:
    there = tmp_path / "there.onnx"
    there.write_bytes(b"x")
    with pytest.raises(OutputError, match="--overwrite"):
        check_target(there, overwrite=False)
    check_target(there, overwrite=True)
    with pytest.raises(OutputError, match="is a folder"):
        check_target(tmp_path, overwrite=True)
    with pytest.raises(OutputError, match="no folder"):
        check_target(tmp_path / "no" / "x.onnx", overwrite=False)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_pipes_are_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="device or pipe"):
        check_target(tmp_path / "pipe", overwrite=True)


def test_links_are_followed_and_permissions_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(OutputError, match="--overwrite"):
        check_target(tmp_path / "dangling", overwrite=False)
    write(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match="read-only"):
        check_target(tmp_path / "x.onnx", overwrite=False)


@pytest.mark.parametrize("failing", [0, 1])
def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    old = tmp_path / "b"
    old.write_bytes(b"old")
    calls = []

    def fsync(handle: int) -> None:
        calls.append(handle)
        if len(calls) > failing:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="No space left"):
        write(tmp_path / "a", b"new", old)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert old.read_bytes() == b"old"


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    write(tmp_path / "a", b"1")
    (tmp_path / "b").write_bytes(b"1")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_what_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with Staging(overwrite=True) as staging:
        staging.write(path, b"new")
        path.write_bytes(b"theirs")
        with pytest.raises(OutputError, match="has appeared"):
            staging.commit()
    with Staging() as staging, pytest.raises(OutputError, match="has appeared"):
        staging.write(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"theirs"]
