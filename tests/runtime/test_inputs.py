from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_tucker.errors import DataError
from onnx_tucker.runtime import data_files, inputs
from onnx_tucker.runtime.batches import Batches, Inputs, folds
from tests.helpers import Array, conv_model, model, session

CONV = conv_model(np.ones((2, 3, 3), np.float32))
X = np.random.default_rng(0).standard_normal((5, 3, 8)).astype(np.float32)


def two_inputs(batch: int | str = "n") -> onnx.ModelProto:
    return model([helper.make_node("Add", ["a", "b"], ["y"])], {}, {"a": [batch, 4], "b": [batch, 4]}, {"y": 2})


def test_npz_npy_and_folders(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X)
    np.savez(tmp_path / "b.npz", x=X[:2])
    (tmp_path / "note.txt").write_text("not data")
    [one] = data_files.read([tmp_path / "a.npz"])
    assert one["x"].shape == (5, 3, 8)
    data = inputs.from_data(data_files.read([tmp_path]), session(CONV), apart=False)
    assert np.array_equal(data.fit.feeds[0]["x"], np.concatenate([X, X[:2]]))
    np.save(tmp_path / "c.npy", X)
    assert list(data_files.read([tmp_path / "c.npy"])[0]) == [""]


def test_parts_that_do_not_belong_together() -> None:
    with pytest.raises(DataError, match="has the keys 'z'"):
        inputs.from_data([{"x": X}, {"z": X}], session(CONV))
    with pytest.raises(DataError, match="has the shape"):
        inputs.from_data([{"x": X}, {"x": X[:, :2]}], session(CONV))


def test_what_is_the_same_again_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    made = session(CONV)
    again = np.concatenate([X, X[[3, 0, 3]]])
    for parts in ([{"x": again}], [{"x": again[:4]}, {"x": again[4:]}]):
        caplog.clear()
        data = inputs.from_data(parts, made, again=False)
        assert "3 of 8 samples are the same as others" in caplog.text
        kept = np.concatenate([feed["x"] for feed in data.feeds])
        assert np.array_equal(np.sort(kept[:, 0, 0]), np.sort(X[:, 0, 0]))
    caplog.clear()
    told = [np.array([0, 1, 2, 3, 4, 3, 0, 5])]
    assert sum(part.samples for part in _parts(inputs.from_data([{"x": again}], made, labels=told, again=False))) == 6
    close = np.concatenate([X, X])
    close[5:, 2, 5] += 1  # where nobody looks first
    assert sum(part.samples for part in _parts(inputs.from_data([{"x": close}], made, again=False))) == 10
    fixed = session(model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": [4, 3, 8]}, {"y": 3}))
    assert inputs.from_data([{"x": again}], fixed, again=False).fit.samples == 8
    assert sum(part.samples for part in _parts(inputs.from_data([{"x": again}], made))) == 8


def _parts(data: Inputs) -> list[Batches]:
    return [data.fit, data.check] if data.held_out else [data.fit]


def test_parts_of_other_sizes_are_run_one_by_one() -> None:
    made = session(model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 3, "length"]}, {"y": 3}))
    parts = [{"x": np.full((1, 3, 4 + i), i)} for i in range(7)]
    data = inputs.from_data(parts, made, labels=[np.array([i]) for i in range(7)])
    assert (data.fit.samples, data.check.samples) == (6, 1)
    [kept] = [feed["x"].shape[2] for feed in data.check.feeds]
    assert kept < 9  # one of the first five
    assert [feed["x"].shape[2] for feed in data.fit.feeds] == [size for size in range(4, 11) if size != kept]
    for part in (data.fit, data.check):
        assert [int(told[0]) for told in part.labels] == [int(feed["x"].max()) for feed in part.feeds]
        assert part.joined is None
        assert all(part.batch(feed) == 1 for feed in part.feeds)
    assert inputs.split(data, made, 1) is data
    assert [fold.check.samples for fold in folds(data, 3)] == [2, 2, 2]


def test_what_is_the_same_for_all_samples() -> None:
    """A scalar, or a state of a fixed shape, beside several samples."""
    node = helper.make_node("Mul", ["x", "s"], ["y"])
    scaled = session(model([node], {}, {"x": ["n", 4], "s": []}, {"y": 2}))
    x = np.arange(40, dtype=np.float32).reshape(10, 4)
    data = inputs.from_data([{"s": np.array(2.0), "x": x}], scaled)
    assert (data.fit.samples, data.check.samples) == (8, 2)
    assert [data.fit.batch(feed) for feed in data.fit.feeds] == [8]
    assert data.fit.feeds[0]["s"].shape == ()
    parts = inputs.split(data, scaled, 3)
    assert [len(feed["x"]) for feed in parts.fit.feeds] == [3, 3, 2]
    assert all(feed["s"] == 2 for feed in parts.fit.feeds)
    assert inputs.sample_shapes(data) == {"x": (1, 4), "s": ()}
    started = session(model([node], {}, {"x": ["n", 4], "s": [2, 1]}, {"y": 2}))
    data = inputs.from_data([{"s": np.ones((2, 1)), "x": x}], started, apart=False)
    assert [feed["x"].shape for feed in data.fit.feeds] == [(1, 4)] * 10
    assert inputs.sample_shapes(data) == {"x": (1, 4), "s": (2, 1)}
    pairs = [{"s": np.ones((2, 1)), "x": x[i : i + 1]} for i in range(10)]
    assert inputs.from_data(pairs, started).check.samples == 2
    halves = inputs.from_data([{"s": np.array(2.0), "x": part} for part in np.split(x, 2)], scaled)
    assert (halves.fit.samples, halves.check.samples) == (8, 2)
    others = [{"s": np.full((2, 1), i), "x": x[i : i + 1]} for i in range(10)]
    one_by_one = inputs.from_data(others, started, apart=False)
    assert [float(feed["s"][0, 0]) for feed in one_by_one.fit.feeds] == list(range(10))


def test_a_state_of_as_many_rows_as_there_are_samples_is_no_batch() -> None:
    nodes = [helper.make_node("ReduceSum", ["s"], ["t"], keepdims=0), helper.make_node("Mul", ["x", "t"], ["y"])]
    made = session(model(nodes, {}, {"x": [1, 4], "s": [2, 3]}, {"y": 2}))
    for count in (2, 3):
        data = inputs.from_data([{"x": np.ones((count, 4)), "s": np.ones((2, 3))}], made)
        assert [feed["s"].shape for feed in data.fit.feeds] == [(2, 3)] * count
        made.run(None, dict(data.fit.feeds[0]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([np.zeros(3), np.zeros(1)], "There are 2 samples, but labels"),
        ([np.zeros(2), np.zeros((2, 1))], "different shapes"),
    ],
)
def test_labels_that_do_not_fit_their_part(labels: list[Array], words: str) -> None:
    with pytest.raises(DataError, match=words):
        inputs.from_data([{"x": X[:2]}, {"x": X[:2]}], session(CONV), labels=labels)


def test_of_kinds_that_take_turns_some_of_each_are_kept_for_checks() -> None:
    x = np.broadcast_to(np.arange(200, dtype=np.float32)[:, None, None], (200, *X.shape[1:]))
    data = inputs.from_data([{"x": x}], session(CONV))
    assert (data.fit.samples, data.check.samples) == (160, 40)
    for kinds in (5, 10):
        for part in (data.fit, data.check):
            which = np.concatenate([feed["x"][:, 0, 0] for feed in part.feeds])
            assert {*which % kinds} == {*range(kinds)}


def test_a_label_may_be_a_number() -> None:
    data = inputs.from_data([{"x": X[i : i + 1]} for i in range(5)], session(CONV), labels=list(np.arange(5)))
    assert sorted(np.concatenate([*data.fit.labels, *data.check.labels])) == [*range(5)]
    for part in (data.fit, data.check):
        for feed, told in zip(part.feeds, part.labels, strict=True):
            assert np.array_equal(feed["x"], X[told])


def test_data_becomes_batches() -> None:
    made = inputs.from_data([{"x": X.astype(np.float64)}], session(CONV))
    assert (made.kind, made.fit.samples, made.check.samples, made.held_out) == ("data", 4, 1, True)
    kept = int(np.flatnonzero((made.check.feeds[0]["x"] == X).all(axis=(1, 2)))[0])
    assert np.array_equal(np.concatenate([f["x"] for f in made.fit.feeds]), np.delete(X, kept, 0))
    assert np.concatenate([f["x"] for f in made.fit.feeds]).dtype == np.float32
    together = inputs.from_data([{"x": X}], session(CONV), apart=False)
    assert (together.fit.samples, together.check.samples, together.held_out) == (5, 5, False)
    assert not inputs.from_data([{"x": X[:4]}], session(CONV)).held_out
    nameless = inputs.from_data([{"": X}], session(CONV))
    assert list(nameless.fit.feeds[0]) == ["x"]


def test_large_samples_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "BATCH_BYTES", 200)
    made = inputs.from_data([{"x": X}], session(CONV), apart=False)
    assert [len(f["x"]) for f in made.fit.feeds] == [2, 2, 1]


def test_batches_are_split_where_the_model_leaves_their_size_open() -> None:
    made = session(CONV)
    twenty = np.repeat(X, 4, 0)
    data = inputs.from_data([{"x": twenty}], made, labels=[np.arange(20)])
    assert inputs.split(data, made, 16) is data
    parts = inputs.split(data, made, 3)
    assert [len(f["x"]) for f in (*parts.fit.feeds, *parts.check.feeds)] == [3, 3, 3, 3, 3, 1, 3, 1]
    for whole, pieces in ((data.fit, parts.fit), (data.check, parts.check)):
        assert np.array_equal(np.concatenate([f["x"] for f in pieces.feeds]), whole.feeds[0]["x"])
        assert [len(told) for told in pieces.labels] == [len(f["x"]) for f in pieces.feeds]
        assert np.array_equal(np.concatenate(pieces.labels), whole.labels[0])
    together = inputs.from_data([{"x": twenty}], made, apart=False)
    assert not inputs.split(together, made, 3).held_out
    fixed = session(two_inputs(2))
    four = np.ones((4, 4), np.float32)
    data = inputs.from_data([{"a": four, "b": four}], fixed)
    assert inputs.split(data, fixed, 1) is data


def test_a_fixed_batch_is_respected() -> None:
    fixed = session(two_inputs(2))
    five = np.ones((5, 4), np.float32)
    made = inputs.from_data([{"a": five, "b": five}], fixed)
    assert [len(f["a"]) for f in made.fit.feeds] == [2, 2]
    assert made.fit.samples == 4
    ten = np.ones((10, 4), np.float32)
    assert inputs.from_data([{"a": ten, "b": ten}], fixed).check.samples == 2
    with pytest.raises(DataError, match="batches of 2"):
        inputs.from_data([{"a": five[:1], "b": five[:1]}], fixed)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"z": X}, "keys 'z', but the model's inputs are 'x'"),
        ({"x": X[:, :2]}, "the model takes"),
        ({"x": X[0]}, "the model takes"),
        ({"x": X[:0]}, "no samples"),
        ({"x": X.astype(np.complex64)}, "complex64"),
        ({"x": X.astype(str)}, "the model takes float32"),
    ],
)
def test_data_that_does_not_fit(arrays: dict[str, Array], words: str) -> None:
    with pytest.raises(DataError, match=words):
        inputs.from_data([arrays], session(CONV))


def test_inputs_without_a_common_batch_are_one_sample() -> None:
    made = inputs.from_data([{"a": np.ones((2, 4)), "b": np.ones((3, 4))}], session(two_inputs()))
    assert (made.fit.samples, len(made.fit.feeds)) == (1, 1)
    with pytest.raises(DataError, match="does for a single input only"):
        inputs.from_data([{"": X}], session(two_inputs()))


def test_shapes_of_one_sample() -> None:
    conv = session(CONV)
    assert inputs.sample_shapes(inputs.from_data([{"x": X}], conv)) == {"x": (1, 3, 8)}
    assert inputs.sample_shapes(inputs.from_data([{"x": X[:1]}], conv)) == {"x": (1, 3, 8)}


def test_labels_stay_with_their_samples() -> None:
    made = session(model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 2]}, {"y": 2}))
    x = np.repeat(np.arange(12, dtype=np.float32)[:, None], 2, axis=1)
    for arrays, count in ((x, 12), (x[:3], 3)):
        data = inputs.from_data([{"x": arrays}], made, labels=[np.arange(count)])
        for part in (data.fit, data.check):
            for feed, told in zip(part.feeds, part.labels, strict=True):
                assert np.array_equal(feed["x"][:, 0], told)
    with pytest.raises(DataError, match="There are 12 samples, but labels of the shape"):
        inputs.from_data([{"x": x}], made, labels=[np.arange(11)])


def test_an_input_may_have_any_number_of_axes() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": []}, {"y": 2})
    made.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(DataError, match="the model takes \\(\\)"):  # as onnxruntime says
        inputs.from_data([{"x": np.arange(80.0).reshape(20, 4)}], session(made))
    data = inputs.from_data([{"x": np.arange(80.0).reshape(20, 4)}], session(made), any_rank={"x"})
    assert (data.fit.samples, data.check.samples) == (16, 4)


def test_texts() -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    made = session(model([node], {}, {"x": ["n"]}, {"y": 1}, dtype=TensorProto.STRING))
    for dtype in (np.str_, object):
        data = inputs.from_data([{"x": np.array(["one", "two"], dtype)}], made)
        assert made.run(None, dict(data.fit.feeds[0]))[0].tolist() == ["one", "two"]
    for wrong in (np.ones(2), np.array([1, 2], object)):
        with pytest.raises(DataError, match="takes texts"):
            inputs.from_data([{"x": wrong}], made)
