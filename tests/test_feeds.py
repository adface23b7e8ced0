"""Data as it is read for a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.errors import DataError
from tests.helpers import Array, model


def added() -> onnx.ModelProto:
    """A model that takes floats."""
    return model([helper.make_node("Add", ["x", "x"], ["y"])], {}, {"x": ("n", 4)}, {"y": 2})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (np.full((3, 4), 200, np.uint8), "is uint8, up to 200"),
        (np.full((3, 4), 7), "is int64, up to 7"),
        (np.eye(4, dtype=np.uint8), ""),
        (np.full((3, 4), 200.0), ""),
    ],
)
def test_whole_numbers_for_others_are_told(
    data: Array, told: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "x.npy", data)
    for given in (data, {"x": data}, tmp_path / "x.npy"):
        caplog.clear()
        compress(added(), ranks="vbmf", data=given, benchmark=False)
        assert ("goes into the model as it is" in caplog.text) == bool(told)
        assert told in caplog.text


def test_data_for_a_model_without_inputs_is_refused_in_words() -> None:
    node = helper.make_node("RandomNormal", [], ["y"], shape=[2, 2])
    with pytest.raises(DataError, match="the model's inputs are"):
        compress(model([node], {}, {}, {"y": 2}), ranks="vbmf", data=np.full((3, 4), 7), benchmark=False)


def test_arrays_of_different_lengths_are_told() -> None:
    weight = np.ones((4, 4), np.float32)
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["h"], "product"),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    made = model(nodes, {"w": weight}, {"a": ["n", 4], "b": ["n", 4]}, {"y": 2})
    data = {"a": np.ones((6, 4), np.float32), "b": np.ones((4, 4), np.float32)}
    with pytest.raises(DataError, match=r"whose arrays have different lengths \(a 6, b 4\)"):
        compress(made, data=data, benchmark=False)
