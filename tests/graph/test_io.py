from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnx_tucker.errors import ModelError
from onnx_tucker.graph import io
from onnx_tucker.graph.staging import Staging, free_data_path
from tests.helpers import load_whole, model, two_layers


def save(made: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Writes a model with its weights in a data file, as the pipeline does; returns what the model's file holds."""
    data = free_data_path(path, taken=())
    copy = onnx.ModelProto.FromString(made.SerializeToString())
    move(copy, path.parent, data, path)
    return copy


def move(made: onnx.ModelProto, folder: Path, data: Path, path: Path) -> int:
    """Writes a model, whose external data is in `folder`, with a data file; returns the size of that."""
    with Staging(overwrite=True) as staging:
        size = staging.write(data, partial(io.move_out, made, folder, data.name))
        staging.write(path, made.SerializeToString())
        staging.commit(path)
    return size


WHOLE = two_layers().SerializeToString()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (WHOLE[: len(WHOLE) // 2], "damaged"),
        (WHOLE[:-1], "damaged"),
        (np.random.default_rng(0).bytes(5000), "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (b"hello, world", "damaged"),
        (b"\x08\x09", "no graph"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        io.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no file"):
        io.load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        io.load(tmp_path)


def test_external_data_is_written_and_read_back(tmp_path: Path) -> None:
    made, path = two_layers(), tmp_path / "m.onnx"
    save(made, path)
    onnx.checker.check_model(str(path), full_check=True)
    assert len(path.read_bytes()) < 3000
    loaded = io.load(path)
    assert loaded.data_files == {tmp_path / "m.onnx.data"}
    assert all(not t.raw_data for t in loaded.model.graph.initializer if t.data_location)
    assert load_whole(path) == made


def test_data_that_stays_is_copied_and_shared_regions_stay_shared(tmp_path: Path) -> None:
    made = save(two_layers(), tmp_path / "a.onnx")
    twin = made.graph.initializer.add()
    twin.CopyFrom(made.graph.initializer[0])
    twin.name = "twin"
    (tmp_path / "a.onnx").write_bytes(made.SerializeToString())
    (tmp_path / "there").mkdir()
    copy = io.load(tmp_path / "a.onnx").model
    size = move(copy, tmp_path, tmp_path / "there" / "b.data", tmp_path / "there" / "b.onnx")
    assert (tmp_path / "there" / "b.data").stat().st_size == size == (tmp_path / "a.onnx.data").stat().st_size
    assert onnx.load(tmp_path / "there" / "b.onnx").graph == onnx.load(tmp_path / "a.onnx").graph


def test_missing_external_data_is_refused(tmp_path: Path) -> None:
    save(two_layers(), tmp_path / "m.onnx")
    (tmp_path / "m.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"conv\.weight"):
        io.load(tmp_path / "m.onnx")


def test_external_data_in_bodies_and_attributes_is_found(tmp_path: Path) -> None:
    value = onnx.numpy_helper.from_array(np.arange(600, dtype=np.float32), "value")
    body = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Constant", [], ["k"], value=value),
            onnx.helper.make_node("Add", ["k", "inner"], ["z"]),
        ],
        "body",
        [],
        [onnx.helper.make_tensor_value_info("z", 1, [600])],
        [onnx.numpy_helper.from_array(np.ones(600, np.float32), "inner")],
    )
    node = onnx.helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body)
    made = model([node], {}, {}, {"y": 1})
    made.graph.input.add().CopyFrom(onnx.helper.make_tensor_value_info("flag", 9, []))
    path = tmp_path / "m.onnx"
    copy = onnx.ModelProto.FromString(made.SerializeToString())
    onnx.save_model(copy, path, save_as_external_data=True, convert_attribute=True, size_threshold=0)
    assert len(path.read_bytes()) < 2000
    assert len(io.external_tensors(io.load(path).model)) == 4
    copy = io.load(path).model
    move(copy, tmp_path, tmp_path / "n.data", tmp_path / "n.onnx")
    assert load_whole(tmp_path / "n.onnx") == made
