"""Fine-tuning from files to files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tucker import compress
from onnx_tucker.cli import main
from onnx_tucker.errors import DataError, ModelError, PlanError, PromiseError, UsageError
from onnx_tucker.fitting import calibrate
from onnx_tucker.graph.segment import probe
from onnx_tucker.graph.trainable import trainable
from onnx_tucker.pipeline import finetune
from onnx_tucker.types import Choice, Plan
from tests.helpers import Array, model, relative, run, two_layers
from tests.test_judged import detector, suppressed

QUICK = {"epochs": 20, "learning_rate": 0.01, "benchmark": False, "threads": 1}

torch = pytest.importorskip("torch")
pytest.importorskip("onnx2torch")


@pytest.fixture(scope="module")
def pair() -> tuple[onnx.ModelProto, onnx.ModelProto, Array]:
    """A model, the same at ranks that are too low, and inputs."""
    made = two_layers(rank=12)
    x = np.random.default_rng(1).standard_normal((60, 24, 16, 16)).astype(np.float32)
    return made, compress(made, ranks=6, benchmark=False).model, x


def test_it_comes_closer_and_only_the_weights_change(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], tmp_path: Path
) -> None:
    made, factorised, x = pair
    before = factorised.SerializeToString(deterministic=True)
    result = finetune(made, factorised, tmp_path / "tuned.onnx", data={"x": x}, **QUICK)
    assert factorised.SerializeToString(deterministic=True) == before
    tuned = onnx.load(tmp_path / "tuned.onnx")
    assert tuned == result.model
    fresh = np.random.default_rng(2).standard_normal((20, 24, 16, 16)).astype(np.float32)
    errors = [relative(run(made, x=fresh)[0], run(one, x=fresh)[0]) for one in (factorised, tuned)]
    assert errors[1] < 0.8 * errors[0]
    names = trainable(factorised)
    for one in (tuned, factorised := onnx.ModelProto.FromString(before)):
        for tensor in one.graph.initializer:
            if tensor.name in names:
                tensor.ClearField("raw_data")
    assert tuned == factorised
    assert {node.status for node in result.report.nodes} == {"factorized"}
    assert result.report.totals.params.after < result.report.totals.params.before
    assert result.report.fidelity is not None


def test_an_interrupted_run_goes_on_to_the_same_weights(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, factorised, x = pair
    monkeypatch.setattr("onnx_tucker.extras.training.SAVING", 9.0)
    whole = finetune(made, factorised, data={"x": x}, **QUICK).model

    def stop(what: str, done: int, of: int) -> None:
        if what.startswith("fine-tuning") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(made, factorised, data={"x": x}, cache=tmp_path, progress=stop, **QUICK)
    [state] = (tmp_path / "trained").iterdir()
    assert torch.load(state, weights_only=True)["standing"]["epoch"] == 4
    assert finetune(made, factorised, data={"x": x}, cache=tmp_path, **QUICK).model == whole


def test_what_does_not_help_is_not_taken(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], caplog: pytest.LogCaptureFixture
) -> None:
    made, factorised, x = pair
    result = finetune(made, factorised, data={"x": x}, **{**QUICK, "epochs": 1, "learning_rate": 10})
    assert result.model == factorised
    assert "no better on the samples kept apart" in caplog.text


def test_nothing_is_learnt_of_samples_that_say_nothing(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array]) -> None:
    made, factorised, x = pair
    flat = np.zeros_like(x) + np.arange(len(x), dtype=np.float32).reshape(-1, *[1] * (x.ndim - 1))
    with pytest.raises(DataError, match="of which nothing can be learnt"):
        finetune(made, factorised, data={"x": flat}, **QUICK)
    with pytest.raises(DataError, match="of which nothing can be learnt"):
        compress(made, ranks="2", benchmark=False, data={"x": flat}, finetune_epochs=2)


def test_it_is_said_that_no_samples_are_kept_apart(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], caplog: pytest.LogCaptureFixture
) -> None:
    made, factorised, x = pair
    finetune(made, factorised, data={"x": x[:4]}, **{**QUICK, "epochs": 1})
    assert "Of 4 samples none is kept for checks" in caplog.text


def test_a_gain_that_may_be_chance_is_taken_only_where_a_promise_needs_it(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], caplog: pytest.LogCaptureFixture
) -> None:
    made, factorised, x = pair
    little = {**QUICK, "epochs": 3, "learning_rate": 1e-5, "data": {"x": x}}
    untrained = finetune(made, factorised, **little)
    assert untrained.model == factorised
    assert "less than 1 % closer" in caplog.text
    assert untrained.report.fidelity is not None
    error = untrained.report.fidelity.outputs[0].relative_l2
    assert error is not None
    kept = finetune(made, factorised, max_error=error * (1 - 1e-6), **little)
    assert kept.model != factorised
    assert kept.report.fidelity is not None
    assert 0.99 * error < (kept.report.fidelity.outputs[0].relative_l2 or 0) < error


def test_promises_hold_or_nothing_is_written(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], tmp_path: Path
) -> None:
    """It is said by how much what was trained misses them."""
    made, factorised, x = pair
    with pytest.raises(PromiseError, match="above --max-error") as caught:
        finetune(made, factorised, tmp_path / "tuned.onnx", data={"x": x}, max_error=1e-6, **QUICK)
    assert not list(tmp_path.iterdir())
    said = float(str(caught.value).split("on the data is ")[1].split(",")[0])
    assert said < 0.8 * relative(run(made, x=x)[0], run(factorised, x=x)[0])


def test_several_inputs_and_outputs() -> None:
    nodes = [
        helper.make_node("MatMul", ["a", "w"], ["p"], "left"),
        helper.make_node("MatMul", ["b", "v"], ["q"], "right"),
        helper.make_node("Add", ["p", "q"], ["s"], "sum"),
        helper.make_node("Tanh", ["s"], ["y"], "tanh"),
        helper.make_node("ArgMax", ["s"], ["z"], "largest", axis=1),
    ]
    rng = np.random.default_rng(0)
    tensors = {name: (rng.standard_normal((32, 32)) / 6).astype(np.float32) for name in "wv"}
    made = model(nodes, tensors, {"a": ["n", 32], "b": ["n", 32]}, {"y": 2})
    made.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.INT64, ["n", 1]))
    made.graph.output.append(helper.make_tensor_value_info("s", onnx.TensorProto.FLOAT, ["n", 32]))
    mixed = rng.standard_normal((8, 32)) / 3  # the inputs vary in few directions, of which the weights do not know
    data = {name: (rng.standard_normal((400, 8)) @ mixed).astype(np.float32) for name in "ab"}
    factorised = compress(made, ranks=8, benchmark=False).model
    tuned = finetune(made, factorised, data=data, **QUICK).model
    expected, before, after = (run(one, **data)[0] for one in (made, factorised, tuned))
    assert relative(expected, after) < relative(expected, before)


def test_block_by_block_it_comes_closer_too(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array]) -> None:
    made, factorised, x = pair
    seen = []
    options = {**QUICK, "epochs": 8, "progress": lambda what, done, of: seen.append(what)}
    tuned = finetune(made, factorised, data={"x": x}, blocks=True, **options).model
    expected, before, after = (run(one, x=x)[0] for one in (made, factorised, tuned))
    assert relative(expected, after) < 0.9 * relative(expected, before)
    blocks = [what.split(",")[1] for what in seen if what.startswith("fine-tuning")]
    assert list(dict.fromkeys(blocks)) == [" block 1 of 2", " block 2 of 2"]


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains are made from the weights alone, so that training has something to gain."""
    monkeypatch.setattr(calibrate, "bases", lambda job, planned: ["weights"])


@pytest.mark.usefixtures("unfitted")
def test_the_main_command_trains_what_it_makes(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array]) -> None:
    made, _, x = pair
    scores: list[float] = []

    def score(run: Any) -> float:
        scores.append(-relative(run({"x": x})["y"], expected))
        return scores[-1]

    expected = run(made, x=x)[0]
    options = {"ranks": 6, "data": {"x": x}, "benchmark": False, "eval": score, "max_drop": 1.0}
    before = compress(made, **options)
    tuned = compress(made, finetune_epochs=8, **options)
    assert scores[-1] > 0.9 * scores[1]  # of errors, less than nothing
    assert [node.ranks for node in tuned.report.nodes] == [node.ranks for node in before.report.nodes]
    assert tuned.report.fidelity is not None
    errors = [[node.error.output for node in one.report.nodes] for one in (before, tuned)]
    assert errors[0] != errors[1]  # they are of the trained weights
    with pytest.raises(UsageError, match="needs --data"):
        compress(made, finetune_epochs=8)
    with pytest.raises(UsageError, match="--finetune-epochs is a whole number from 0"):
        compress(made, finetune_epochs=-3)


def test_weights_in_other_files_are_trained(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], tmp_path: Path
) -> None:
    made, factorised, x = pair
    (tmp_path / "a").mkdir()
    for one, path in ((made, tmp_path / "in.onnx"), (factorised, tmp_path / "a" / "small.onnx")):
        copy = onnx.ModelProto.FromString(one.SerializeToString())
        onnx.save(copy, path, save_as_external_data=True, location=f"{path.stem}.data", size_threshold=0)
    options = {**QUICK, "epochs": 3, "data": {"x": x}}
    finetune(tmp_path / "in.onnx", tmp_path / "a" / "small.onnx", tmp_path / "tuned.onnx", **options)
    one, other = onnx.load(tmp_path / "tuned.onnx"), finetune(made, factorised, **options).model
    for a, b in zip(one.graph.initializer, other.graph.initializer, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(numpy_helper.to_array(a), numpy_helper.to_array(b))
    assert (tmp_path / "tuned.onnx.data").exists()
    result = finetune(made, tmp_path / "a" / "small.onnx", tmp_path / "t.onnx", **options)
    assert (tmp_path / "t.onnx.data").exists()
    assert result.report.settings["save_as_external_data"] is False  # nobody asked for it
    both = {"ranks": 6, "finetune_epochs": 3, "data": {"x": x}, "benchmark": False, "threads": 1}
    compress(tmp_path / "in.onnx", tmp_path / "b.onnx", **both)
    np.testing.assert_array_equal(run(onnx.load(tmp_path / "b.onnx"), x=x), run(compress(made, **both).model, x=x))


def test_nothing_of_what_is_given_is_lost(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], tmp_path: Path) -> None:
    made, factorised, x = pair
    onnx.save(made, tmp_path / "in.onnx")
    copy = onnx.ModelProto.FromString(factorised.SerializeToString())
    onnx.save(copy, tmp_path / "old.onnx", save_as_external_data=True, location="old.onnx.data", size_threshold=0)
    (tmp_path / "small.onnx").write_bytes((tmp_path / "old.onnx").read_bytes())  # of the same weights
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    options = {**QUICK, "epochs": 1, "data": {"x": x}, "overwrite": True}
    finetune(tmp_path / "in.onnx", tmp_path / "small.onnx", tmp_path / "old.onnx", **options)
    assert all((tmp_path / n).read_bytes() == content for n, content in before.items() if n != "old.onnx")
    with pytest.raises(UsageError, match="is an input itself"):
        finetune(tmp_path / "in.onnx", tmp_path / "small.onnx", tmp_path / "old.onnx.data", **options)
    mine = factorised.SerializeToString()
    finetune(made, factorised, tmp_path / "t.onnx", **{**options, "learning_rate": 10})
    assert factorised.SerializeToString() == mine


@pytest.mark.usefixtures("unfitted")
def test_training_may_keep_a_promise(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array]) -> None:
    made, _, x = pair
    tuned = compress(made, ranks=6, finetune_epochs=8, data={"x": x}, benchmark=False, threads=1)
    plain = compress(made, ranks=6, data={"x": x}, benchmark=False, threads=1)
    assert tuned.report.fidelity is not None
    assert plain.report.fidelity is not None
    errors = [float(one.report.fidelity.outputs[0].relative_l2 or 0) for one in (tuned, plain)]
    assert errors[0] < errors[1]
    promised = {"max_error": sum(errors) / 2, "data": {"x": x}, "benchmark": False, "threads": 1}
    kept = compress(made, ranks=6, finetune_epochs=8, **promised).report
    given_back = compress(made, ranks=6, **promised).report
    assert [sum(n.status == "factorized" for n in one.nodes) for one in (kept, given_back)] == [2, 1]


def test_old_formats_are_trained(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array]) -> None:
    made, _, x = pair
    old = onnx.ModelProto.FromString(made.SerializeToString())
    old.ir_version = 3
    for tensor in old.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        old.graph.input.append(value)
    factorised = compress(old, ranks=6, benchmark=False).model
    tuned = finetune(old, factorised, data={"x": x}, **{**QUICK, "epochs": 3}).model
    assert tuned != factorised


def test_labels_are_of_numbers_with_fractions() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("ArgMax", ["h"], ["z"], "largest", axis=1, keepdims=0),
        helper.make_node("Softmax", ["h"], ["s"], "softmax", axis=1),
        helper.make_node("Identity", ["s"], ["y"], "same"),
    ]
    made = model(nodes, {"w": rng.standard_normal((32, 2)).astype(np.float32)}, {"x": ["n", 32]}, {})
    made.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.INT64, ["n"]))
    made.graph.output.append(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2]))
    x = rng.standard_normal((200, 32)).astype(np.float32)
    data = {"x": x, "t": (x[:, 0] > 0).astype(np.int64)}
    factorised = compress(made, ranks=1, keep_slower=True, benchmark=False).model
    tuned = finetune(made, factorised, data=data, labels="t", **{**QUICK, "learning_rate": 0.1}).model
    right = [np.mean(run(one, x=x)[0] == data["t"]) for one in (factorised, tuned)]
    assert right[1] > right[0]


@pytest.mark.parametrize("end", ["", "Softmax", "LogSoftmax"])
def test_labels_are_learnt(end: str) -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "first"), helper.make_node("Relu", ["h"], ["r"], "relu")]
    nodes.append(helper.make_node("MatMul", ["r", "v"], ["s" if end else "y"], "second"))
    if end:
        nodes.append(helper.make_node(end, ["s"], ["y"], "end", axis=1))
    tensors = {name: (rng.standard_normal((32, size)) / 5).astype(np.float32) for name, size in (("w", 32), ("v", 4))}
    made = model(nodes, tensors, {"x": ["n", 32]}, {"y": 2})
    factorised = compress(made, ranks=2, benchmark=False, include=["first"]).model
    x = rng.standard_normal((600, 32)).astype(np.float32)
    data = {"x": x, "class": (x[:, :4] + 0.1 * x[:, 4:8]).argmax(axis=1)}  # which the original does not know

    def right(one: onnx.ModelProto) -> float:
        return float(np.mean(run(one, x=x)[0].argmax(axis=1) == data["class"]))

    options = {**QUICK, "data": data, "labels": "class", "learning_rate": 0.1}
    taught, both = (finetune(made, factorised, loss=loss, **options).model for loss in ("labels", None))
    distilled = finetune(made, factorised, loss="distill", **options).model
    assert right(taught) > right(both) > right(distilled)


def test_parts_of_an_output_are_learnt_and_labels_are_of_all_of_it() -> None:
    made, x = detector(), np.random.default_rng(1).standard_normal((60, 16, 8, 8)).astype(np.float32)
    factorised = compress(made, ranks=2, benchmark=False).model
    [wanted] = run(made, x=x)
    missed = []
    for labels in ({}, {"t": 0.9 * wanted}):
        options = {**QUICK, "data": {"x": x, **labels}, "labels": next(iter(labels), None)}
        [found] = run(finetune(made, factorised, **options).model, x=x)
        missed.append(relative(wanted[..., 16:], found[..., 16:]))
    [before] = run(factorised, x=x)
    assert max(missed) < 0.95 * relative(wanted[..., 16:], before[..., 16:])


def test_scores_that_an_earlier_run_has_hidden_on_frames_are_not_needed() -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["s"], "conv", pads=[1] * 6)]
    nodes.append(helper.make_node("Softmax", ["s"], ["y"], axis=1))
    kernel = 0.3 * rng.standard_normal((8, 8, 3, 3, 3)).astype(np.float32)
    made = model(nodes, {"w": kernel}, {"x": [1, 8, 4, 5, 5]}, {"y": 5})
    frames = Choice("conv", "Conv", (8, 8, 3, 3, 3), "factorized", "", "tucker2", "frames_out", (3, 3))
    factorised = compress(made, plan=Plan((frames,)), benchmark=False).model
    assert "s" not in {name for node in factorised.graph.node for name in node.output}
    x = rng.standard_normal((20, 8, 4, 5, 5)).astype(np.float32)
    tuned = finetune(made, factorised, data={"x": x}, **{**QUICK, "epochs": 2})
    assert tuned.report.fidelity is not None
    [output] = tuned.report.fidelity.outputs
    assert [part.name for part in output.parts] == ["y"]


def test_nothing_behind_what_a_choice_is_made_from_is_needed() -> None:
    """torch has no suppression of boxes as ONNX has it."""
    made, x = suppressed(), np.random.default_rng(1).standard_normal((60, 16, 8, 8)).astype(np.float32)
    factorised = compress(made, ranks=2, benchmark=False).model
    for blocks in (False, True):
        tuned = finetune(made, factorised, data={"x": x}, blocks=blocks, **QUICK).model
        values = [run(probe(one, ["scores"]), x=x)[0] for one in (made, factorised, tuned)]
        assert relative(values[0], values[2]) < 0.95 * relative(values[0], values[1])
    once = compress(made, ranks=2, data={"x": x}, benchmark=False, finetune_epochs=2)
    assert once.report.nodes


def test_labels_that_do_not_fit_are_refused_in_words(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array]) -> None:
    made, factorised, x = pair
    for labels, words in ((np.zeros(59), "60 samples"), (np.full(60, 99), "neither classes nor values")):
        with pytest.raises(DataError, match=words):
            finetune(made, factorised, data={"x": x, "t": labels}, labels="t", **QUICK)
    with pytest.raises(DataError, match="no array 't'"):
        finetune(made, factorised, data={"x": x}, labels="t", **QUICK)
    for options, words in (({"loss": "both"}, "needs --labels"), ({"loss": "labels", "blocks": True}, "is distill")):
        with pytest.raises(UsageError, match=words):
            finetune(made, factorised, data={"x": x}, **options, **QUICK)
    with pytest.raises(UsageError, match="it is one of distill"):
        finetune(made, factorised, data={"x": x, "t": np.zeros(60)}, labels="t", loss="l1", **QUICK)


def test_what_cannot_be_tuned_is_said_before_anything_is_factorised(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _, x = pair

    def begun(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("onnx_tucker.pipeline.decide", begun)
    options = {"ranks": 6, "benchmark": False, "finetune_epochs": 2}
    with pytest.raises(DataError, match="neither classes nor values"):
        compress(made, data={"x": x, "t": np.full(60, 99)}, labels="t", **options)
    double = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": np.ones((4, 4))}, {"x": ["n", 4]}, {"y": 2}
    )
    double.graph.input[0].type.tensor_type.elem_type = double.graph.output[0].type.tensor_type.elem_type = 11
    with pytest.raises(ModelError, match="no weights in single precision"):
        compress(double, data={"x": np.random.default_rng(0).standard_normal((20, 4))}, **options)
    operators = pytest.importorskip("onnx_tucker.extras.operators").OPERATORS
    monkeypatch.setitem(operators, "Gemm", lambda attributes: lambda a, b, c=None: a @ b.T * np.nan)
    with pytest.raises(ModelError, match="torch does not compute the Gemm 'fc"):
        compress(made, data={"x": x}, **options)


def test_stored_integers_and_what_is_not_learnt_are_no_obstacle() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("DequantizeLinear", ["stored", "scale"], ["w"], "dequantized"),
        helper.make_node("Conv", ["x", "w"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("MaxPool", ["c"], ["y", "where"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    stored = rng.integers(-99, 99, (16, 16, 3, 3)).astype(np.int8)
    made = model(nodes, {"stored": stored, "scale": np.float32(0.01)}, {"x": ["n", 16, 8, 8]}, {"y": 4, "where": 4})
    made.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.INT64
    data = {"x": rng.standard_normal((40, 16, 8, 8)).astype(np.float32)}
    options = {"ranks": 4, "dequantize": True, "benchmark": False, "data": data, "threads": 1}
    errors = [
        compress(made, finetune_epochs=epochs, **options).report.fidelity.outputs[0].relative_l2 for epochs in (0, 8)
    ]
    assert errors[1] < errors[0]


def test_what_two_runs_have_made_is_known() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"], "second"),
    ]
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal((32, 32)).astype(np.float32) for name in "vw"}
    made, data = model(nodes, weights, {"x": ["n", 32]}, {"y": 2}), {"x": rng.standard_normal((40, 32)).astype("f4")}
    once = compress(made, ranks=8, include="first", benchmark=False).model
    twice = compress(once, ranks=8, include="second", benchmark=False).model
    for original, before in ((made, 2048), (once, 1536)):
        report = finetune(original, twice, data=data, **QUICK).report
        assert (report.totals.params.before, report.totals.params.after) == (before, 1024)


def test_what_cannot_be_tuned_is_refused_in_words(pair: tuple[onnx.ModelProto, onnx.ModelProto, Array]) -> None:
    made, factorised, x = pair
    with pytest.raises(UsageError, match="needs --data"):
        finetune(made, factorised, **QUICK)
    with pytest.raises(UsageError, match="--epochs is a whole number from 1"):
        finetune(made, factorised, data={"x": x}, epochs=0)
    with pytest.raises(PlanError, match="nothing of it was factorised"):
        finetune(made, made, data={"x": x}, **QUICK)
    other = onnx.ModelProto()
    other.CopyFrom(factorised)
    del other.metadata_props[:]
    with pytest.raises(PlanError, match="does not say what was made"):
        finetune(made, other, data={"x": x}, **QUICK)
    with pytest.raises(DataError, match="No samples are left to train on"):
        finetune(made, factorised, data={"x": np.full_like(x, np.nan)}, **QUICK)
    other.graph.output[0].name = "c"
    with pytest.raises(ModelError, match="has other outputs"):
        finetune(made, other, data={"x": x}, **QUICK)


def test_weights_in_bodies_are_refused_in_words() -> None:
    rng = np.random.default_rng(0)

    def body(name: str) -> onnx.GraphProto:
        weight = numpy_helper.from_array(rng.standard_normal((40, 32)).astype(np.float32), "w")
        output = helper.make_tensor_value_info(name, 1, ["n", 32])
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], [name], "inner")], name, [], [output], [weight]
        )

    choice = helper.make_node("If", ["flag"], ["y"], "choice", then_branch=body("a"), else_branch=body("b"))
    flag = np.ones((), bool)
    made = model([choice], {"flag": flag}, {"x": ["n", 40]}, {"y": 2})
    data = {"x": rng.standard_normal((12, 40)).astype(np.float32)}
    factorised = compress(made, ranks="2", data=data, benchmark=False).model
    with pytest.raises(ModelError, match="no weights in single precision"):
        finetune(made, factorised, data=data, **QUICK)


def test_a_node_that_torch_computes_otherwise_is_named(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, factorised, x = pair
    operators = pytest.importorskip("onnx_tucker.extras.operators").OPERATORS
    monkeypatch.setitem(operators, "Gemm", lambda attributes: lambda a, b, c=None: 2 * a @ b.T)
    with pytest.raises(ModelError, match="torch does not compute the Gemm 'fc"):
        finetune(made, factorised, data={"x": x}, **QUICK)
    with_nothing = onnx.ModelProto()  # a value without elements is no other one
    with_nothing.CopyFrom(factorised)
    with_nothing.graph.node.insert(0, helper.make_node("Shape", ["x"], ["nothing"], start=1, end=1))
    with pytest.raises(ModelError, match="torch does not compute the Gemm 'fc"):
        finetune(made, with_nothing, data={"x": x}, **QUICK)


def test_the_command_line(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, factorised, x = pair
    onnx.save(made, tmp_path / "in.onnx")
    onnx.save(factorised, tmp_path / "small.onnx")
    np.savez(tmp_path / "data.npz", x=x)
    paths = [str(tmp_path / name) for name in ("in.onnx", "small.onnx", "tuned.onnx", "data.npz")]
    options = ["--epochs", "5", "--no-benchmark", "--no-cache", "--threads", "1"]
    assert main(["finetune", *paths[:2], "-o", paths[2], "--data", paths[3], *options]) == 0
    assert "2 of 2 factorized" in capsys.readouterr().out
    assert main(["finetune", *paths[:2], "-o", paths[1], "--data", paths[3], "--overwrite", *options]) == 2


@pytest.mark.parametrize("hidden", ["sys.modules['torch'] = None", ""])
def test_without_torch_one_sentence_says_how_to_get_it(hidden: str, tmp_path: Path) -> None:
    """Or where one part of what is installed does not fit another."""
    onnx.save(two_layers(), tmp_path / "in.onnx")
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 24, 16, 16), np.float32))
    (tmp_path / "onnx2torch.py").write_text("raise RuntimeError('an operator does not exist')", encoding="utf-8")
    code = f"import sys; {hidden}\nfrom onnx_tucker.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "finetune", "in.onnx", "in.onnx", "-o", "out.onnx", "--data", "data.npz"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'onnx-tucker[finetune]'.")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.onnx").exists()


def test_the_core_imports_no_torch(tmp_path: Path) -> None:
    onnx.save(two_layers(), tmp_path / "in.onnx")
    looked = (
        "import sys; from onnx_tucker.cli import main; "
        "assert main(['in.onnx', 'out.onnx', '-q', '--no-benchmark', '--no-cache']) == 0; "
        "assert not {'torch', 'onnx2torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", looked], cwd=tmp_path).returncode == 0


def test_samples_that_are_not_finite_are_left_out(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], caplog: pytest.LogCaptureFixture
) -> None:
    made, factorised, x = pair
    spoilt = x.copy()
    spoilt[0, 0, 0, 0] = np.nan
    tuned = finetune(made, factorised, data={"x": spoilt}, **QUICK).model
    assert (
        "1 of 60 samples are left out of the training, as there are numbers in them that are not finite" in caplog.text
    )
    [expected], [before], [after] = (run(one, x=x) for one in (made, factorised, tuned))
    assert relative(expected, after) < 0.9 * relative(expected, before)


def test_a_batch_whose_size_the_model_does_not_declare_stays_whole() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Reshape", ["h", "shape"], ["r"], "reshape"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    tensors = {name: (rng.standard_normal((32, 32)) / 6).astype(np.float32) for name in "wv"}
    made = model(nodes, {**tensors, "shape": np.array([2, 32])}, {"x": ["n", 32]}, {"y": 2})
    mixed = rng.standard_normal((6, 32))
    parts = [{"x": (rng.standard_normal((2, 6)) @ mixed).astype(np.float32)} for _ in range(20)]
    factorised = compress(made, ranks=8, benchmark=False).model

    def error(one: onnx.ModelProto) -> float:
        return sum(relative(run(made, **part)[0], run(one, **part)[0]) for part in parts)

    for number in (5, 10, 20):
        result = compress(made, ranks=8, benchmark=False, data=parts[:number])
        assert result.report.fidelity is not None
        assert result.report.fidelity.samples == number // 5
    assert error(finetune(made, factorised, data=parts, **QUICK).model) < 0.8 * error(factorised)
    finetune(made, factorised, data=parts[0], **QUICK)


def test_a_model_of_single_samples_that_does_not_declare_it_takes_them_one_by_one() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], "reshape"),
        helper.make_node("MatMul", ["r", "w"], ["y"], "product"),
    ]
    tensors = {"w": rng.standard_normal((32, 32)).astype(np.float32), "shape": np.array([1, 32])}
    made = model(nodes, tensors, {"x": ["n", 32]}, {"y": 2})
    data = {"x": rng.standard_normal((20, 32)).astype(np.float32)}
    result = compress(made, ranks=8, benchmark=False, data=data)
    assert result.report.fidelity is not None
    assert result.report.fidelity.samples == 4
    finetune(made, result.model, data=data, **QUICK)


def test_texts_beside_what_is_trained() -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product"), helper.make_node("Identity", ["t"], ["u"])]
    made = model(nodes, {"w": rng.standard_normal((32, 32)).astype(np.float32)}, {"x": ["n", 32]}, {"y": 2})
    made.graph.input.append(helper.make_tensor_value_info("t", onnx.TensorProto.STRING, ["n"]))
    made.graph.output.append(helper.make_tensor_value_info("u", onnx.TensorProto.STRING, ["n"]))
    x = (rng.standard_normal((40, 6)) @ rng.standard_normal((6, 32))).astype(np.float32)
    data = {"x": x, "t": np.array(["a"] * 40)}
    factorised = compress(made, ranks=4, benchmark=False).model
    before, after = (
        one.report.fidelity
        for one in (
            compress(made, plan=compress(made, ranks=4, benchmark=False).plan, data=data, benchmark=False),
            finetune(made, factorised, data=data, input_shape={"x": (100, 32)}, **QUICK),
        )
    )
    assert before is not None
    assert after is not None
    assert [output.name for output in after.outputs] == ["y", "u"]


def test_weights_of_chains_in_bodies_stay_as_they_are_block_by_block() -> None:
    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.standard_normal((32, 32)).astype(np.float32), "v")
    output = helper.make_tensor_value_info("a", 1, ["n", 32])
    then = helper.make_graph([helper.make_node("MatMul", ["h", "v"], ["a"], "inner")], "a", [], [output], [weight])
    other = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["b"])], "b", [], [onnx.ValueInfoProto(name="b", type=output.type)]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("If", ["flag"], ["y"], "choice", then_branch=then, else_branch=other),
    ]
    tensors = {"w": rng.standard_normal((32, 32)).astype(np.float32), "flag": np.ones((), bool)}
    made = model(nodes, tensors, {"x": ["n", 32]}, {"y": 2})
    mixed = rng.standard_normal((6, 32))
    data = {"x": (rng.standard_normal((40, 6)) @ mixed).astype(np.float32)}
    factorised = compress(made, ranks=4, benchmark=False).model
    result = finetune(made, factorised, data=data, blocks=True, **QUICK)
    assert {node.status for node in result.report.nodes} == {"factorized"}
    [expected], [before], [after] = (run(one, **data) for one in (made, factorised, result.model))
    assert relative(expected, after) < relative(expected, before)


def test_options_that_a_model_was_made_with_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("MatMul", ["x", "v"], ["y"], "fc"),
    ]
    tensors = {"w": rng.integers(-100, 100, (24, 32)).astype(np.int8), "s": np.array(0.01, np.float32)}
    made, x = model(nodes, tensors, {"x": ["n", 24]}, {"y": 2}), rng.standard_normal((40, 24)).astype(np.float32)
    options = {"dequantize": True, "benchmark": False, "threads": 1, "data": {"x": x}}
    factorised = compress(made, ranks=8, **options).model
    quick = {"epochs": 2, "benchmark": False, "threads": 1, "data": {"x": x}}
    with pytest.raises(PlanError, match="--dequantize"):
        finetune(made, factorised, **quick)
    [node] = finetune(made, factorised, dequantize=True, **quick).report.nodes
    assert (node.status, node.params.before, node.params.after) == ("factorized", 24 * 32, 8 * (24 + 32))
    changed = onnx.ModelProto.FromString(factorised.SerializeToString())
    old, changed.graph.initializer[0].name = changed.graph.initializer[0].name, "renamed"
    for node_ in changed.graph.node:
        for i, name in enumerate(node_.input):
            node_.input[i] = "renamed" if name == old else name
    with pytest.raises(PlanError, match="something else has changed it"):
        finetune(made, changed, dequantize=True, **quick)


def test_what_torch_does_not_know_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made = two_layers(rank=12)
    made.graph.node.insert(0, helper.make_node("Shrink", ["x"], ["n"], "shrink"))
    made.graph.node[1].input[0] = "n"

    def worked(*_: object) -> None:
        raise AssertionError("it has begun to work")

    monkeypatch.setattr("onnx_tucker.pipeline.decide", worked)
    x = np.random.default_rng(0).random((4, 24, 16, 16), np.float32)
    with pytest.raises(ModelError, match="torch does not know the Shrink"):
        compress(made, data={"x": x}, finetune_epochs=2, benchmark=False)
