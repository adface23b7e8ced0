from __future__ import annotations

from pathlib import Path

import pytest

from onnx_tucker.runtime.memory import Memory, Recalled


def test_values_are_known_in_this_run_and_in_later_ones(tmp_path: Path) -> None:
    first = Memory(tmp_path)
    assert first.recall("key") is None
    first.remember("key", [1.5, "text"])
    assert first.recall("key") == Recalled([1.5, "text"], False)
    assert Memory(tmp_path).recall("key") == Recalled([1.5, "text"], True)


def test_without_a_folder_nothing_outlives_the_run() -> None:
    memory = Memory(None)
    memory.remember("key", 1)
    assert memory.recall("key") == Recalled(1, False)
    assert Memory(None).recall("key") is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"1", b"0\n1"])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    Memory(tmp_path).remember("key", 1)
    [file] = (tmp_path / "measured").iterdir()
    file.write_bytes(content)
    assert Memory(tmp_path).recall("key") is None


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    memory = Memory(tmp_path / "file")
    memory.remember("key", 1)
    assert memory.recall("key") == Recalled(1, False)


def test_a_folder_that_cannot_be_looked_at_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> str:
        raise PermissionError("not yours")

    monkeypatch.setattr(Path, "stat", refused)
    monkeypatch.setattr(Path, "read_bytes", refused)
    assert Memory(tmp_path).recall("key") is None
