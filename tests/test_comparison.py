from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import onnx_tucker
from onnx_tucker import compress
from onnx_tucker.cli import main
from onnx_tucker.comparison import compare
from onnx_tucker.errors import DataError, ModelError, UsageError
from tests.helpers import model, relative, run, two_layers


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = two_layers(rank=12)
    onnx.save(made, "a.onnx")
    compress("a.onnx", "b.onnx", ranks=6, benchmark=False)
    made.graph.output[0].name = made.graph.node[-1].output[0] = "other"
    onnx.save(made, "c.onnx")
    x = np.random.default_rng(1).standard_normal((7, 24, 16, 16)).astype(np.float32)
    np.savez("x.npz", x=x)
    return tmp_path


def test_outputs_sizes_and_times(folder: Path) -> None:
    found = compare("a.onnx", "b.onnx", seconds=0.2, data="x.npz", threads=1)
    x = np.load("x.npz")["x"]
    [output] = found.outputs
    assert output.relative_l2 == pytest.approx(
        relative(*(run(onnx.load(p), x=x)[0] for p in ("a.onnx", "b.onnx"))), rel=1e-4
    )
    assert (found.kind, found.samples) == ("data", 7)
    assert (found.file_bytes.before, found.file_bytes.after) == tuple(
        Path(p).stat().st_size for p in ("a.onnx", "b.onnx")
    )
    assert found.timings[0].speedup == 1


def test_a_model_is_as_close_to_itself_as_can_be(folder: Path) -> None:
    found = compare("a.onnx", "a.onnx", benchmark=False)
    assert [output.relative_l2 for output in found.outputs] == [0.0]
    assert found.kind == "random"
    assert not found.timings


def test_data_may_hold_labels(folder: Path) -> None:
    np.savez("both.npz", x=np.load("x.npz")["x"], kind=np.arange(7))
    assert main("compare a.onnx a.onnx --data both.npz --labels kind --no-benchmark".split()) == 0


def test_the_command_prints_a_table_or_json_and_holds_a_promise(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("compare a.onnx b.onnx --data x.npz --seconds 0.05 --threads 1".split()) == 0
    assert "7 samples of the data" in capsys.readouterr().out
    assert main("compare a.onnx b.onnx --data x.npz --no-benchmark --json".split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnx-tucker/compare/1"
    assert document["totals"]["speedup"] is None
    assert document["fidelity"]["outputs"][0]["relative_l2"] > 1e-3
    assert main("compare a.onnx b.onnx --data x.npz --no-benchmark --max-error 0.001".split()) == 3
    printed = capsys.readouterr()
    assert "above --max-error 0.001" in printed.err
    assert "7 samples of the data" in printed.out


def test_models_that_cannot_be_compared(folder: Path) -> None:
    with pytest.raises(ModelError, match="no output"):
        compare("a.onnx", "c.onnx", benchmark=False)
    with pytest.raises(ModelError, match="There is no file"):
        compare("a.onnx", "d.onnx", benchmark=False)
    with pytest.raises(UsageError, match="--seconds"):
        compare("a.onnx", "b.onnx", seconds=0)
    onnx.save(helper.make_model(helper.make_graph([], "empty", [], [])), "e.onnx")
    with pytest.raises(ModelError):
        compare("a.onnx", "e.onnx", benchmark=False)


def test_a_model_that_takes_other_batches_than_are_timed_is_refused_in_words() -> None:
    node, weight = helper.make_node("MatMul", ["x", "w"], ["y"], "product"), {"w": np.eye(4, dtype=np.float32)}
    one, other = (model([node], weight, {"x": [batch, 4]}, {"y": 2}) for batch in ("n", 4))
    data = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    assert compare(one, other, data=data, benchmark=False).outputs[0].relative_l2 == 0
    with pytest.raises(DataError, match="what they are timed on"):
        compare(one, other, data=data)


def test_what_is_not_known_is_null_in_json() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "product")
    one, other = (
        model([node], {"w": scale * np.eye(4)}, {"x": [2, 4]}, {"y": 2}, dtype=onnx.TensorProto.DOUBLE)
        for scale in (1e160, 3e160)
    )
    found = compare(one, other, data=np.ones((2, 4)), max_error=0.1, benchmark=False)
    assert found.broken
    assert json.loads(found.to_json(), parse_constant=pytest.fail)["fidelity"]["outputs"][0]["relative_l2"] is None


def test_models_may_be_in_memory(folder: Path) -> None:
    a, b = onnx.load("a.onnx"), onnx.load("b.onnx")
    x = np.load("x.npz")["x"]
    found = onnx_tucker.compare(a, b, data=x, benchmark=False)
    assert found.outputs == compare("a.onnx", "b.onnx", data="x.npz", benchmark=False).outputs
    assert found.models == ("model 1", "model 2")
    assert found.file_bytes.before == a.ByteSize()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_breaks_a_promise(value: float) -> None:
    """Its error is that of the others, which may be none."""
    ones = np.ones(4, np.float32)
    spoilt = np.where(np.arange(4) == 1, np.float32(value), ones)
    made, other = (
        model([helper.make_node("Add", ["x", "c"], ["y"])], {"c": c}, {"x": ["n", 4]}, {"y": 2}) for c in (ones, spoilt)
    )
    found = compare(made, other, benchmark=False, max_error=0.1)
    assert found.broken == "The output y is not finite where the original's is"
    assert "The output y is not finite" in found.notes[0]
    assert compare(other, other, benchmark=False, max_error=0.1).broken is None
