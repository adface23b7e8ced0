"""Data as it is read for a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.errors import DataError, UsageError
from tests.helpers import Array, conv_model, low_rank, model


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


def test_what_is_no_array_is_told() -> None:
    made = conv_model(np.ones((4, 4, 1), np.float32))
    with pytest.raises(DataError, match="x is no array"):
        compress(made, data={"x": [[1.0], [1.0, 2.0]]}, benchmark=False)
    with pytest.raises(DataError, match="the model's inputs are 'x'"):
        compress(made, data={5: np.ones(3), "z": np.ones(3)}, benchmark=False)


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


@pytest.mark.parametrize(
    "options",
    [
        {"data": {"x": np.ones((40, 3, 8), np.float32), "past": np.zeros((40, 0, 8), np.float32)}},
        {"dim": {"s": 3, "p": 0}},
        {"input_shape": {"x": (1, 3, 8), "past": (1, 0, 8)}},
    ],
)
def test_a_state_may_be_empty(options: dict[str, Any]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["k"], "k"),
        helper.make_node("Concat", ["past", "k"], ["present"], axis=1),
        helper.make_node("MatMul", ["present", "v"], ["y"], "y"),
    ]
    weights = {name: low_rank(np.random.default_rng(0), 2, 8, 8) for name in "wv"}
    made = model(nodes, weights, {"x": ["n", "s", 8], "past": ["n", "p", 8]}, {"y": 3, "present": 3})
    report = compress(made, ranks=2, benchmark=False, **options).report
    assert [(node.status, node.flops and node.flops.before) for node in report.nodes] == [
        ("factorized", 3 * 8 * 15)
    ] * 2
    assert report.fidelity is not None
    assert {output.name for output in report.fidelity.outputs} == {"y", "present"}


def test_an_input_without_samples_is_refused_in_words() -> None:
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "y")],
        {"w": np.ones((8, 8), np.float32)},
        {"x": ["n", 8]},
        {"y": 2},
    )
    with pytest.raises(DataError, match="no samples"):
        compress(made, data={"x": np.ones((0, 8), np.float32)})
    for data in ({}, {"x": np.ones((8, 8), np.float32)}):
        with pytest.raises(UsageError, match="no samples"):
            compress(made, dim={"n": 0}, data=data)
