"""Files of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_tucker.errors import DataError
from onnx_tucker.runtime import data_files


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    bad = tmp_path / "bad.npz"
    bad.write_bytes(b"PK\x03\x04 no zip")
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"code": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "empty").mkdir()
    encrypted = tmp_path / "encrypted.npz"
    np.savez(encrypted, x=np.ones(3))
    content = bytearray(encrypted.read_bytes())
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(header) + flags] |= 1
    encrypted.write_bytes(content)
    for path, words in (
        (bad, "cannot be read"),
        (pickled, "cannot be read"),
        (encrypted, "encrypted"),
        (tmp_path / "none.npz", "no data file"),
        (tmp_path / "empty", "holds no"),
    ):
        with pytest.raises(DataError, match=words):
            data_files.read([path])


def test_only_files_of_a_folder_that_are_not_hidden_count(tmp_path: Path) -> None:
    np.savez(tmp_path / "A.npz", x=np.ones(2))
    (tmp_path / "A.npz").rename(tmp_path / "A.NPZ")
    (tmp_path / "._A.npz").write_bytes(b"not ours")
    (tmp_path / "b.npy").mkdir()
    assert [path.name for path in data_files.files(tmp_path)] == ["A.NPZ"]


def test_samples_of_large_files_are_read_when_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(data_files, "LARGE", 1)
    [part] = data_files.read([tmp_path / "x.npy"])
    assert isinstance(part[""], np.memmap)
    assert np.array_equal(part[""], x)
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(content[:-8])
    np.save(tmp_path / "pickled.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    for name in ("cut.npy", "pickled.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            data_files.read([tmp_path / name])
