"""Training of the later weights alone."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tucker import compress
from onnx_tucker.course import Course
from onnx_tucker.graph.trainable import trainable
from onnx_tucker.job import silent
from onnx_tucker.pipeline import finetune
from onnx_tucker.prepare import prepare
from onnx_tucker.runtime.batches import some
from onnx_tucker.runtime.session import run_named
from onnx_tucker.settings import Settings
from onnx_tucker.training import later
from onnx_tucker.training.later import Extent, Later
from tests.helpers import Array, model, relative, run, session, two_layers

pytest.importorskip("torch")
pytest.importorskip("onnx2torch")
training = pytest.importorskip("onnx_tucker.extras.training")

RNG = np.random.default_rng(0)
QUICK = {"epochs": 20, "benchmark": False, "threads": 1}


def subject(made: onnx.ModelProto, x: Array | dict[str, Array], **changes: Any) -> tuple[Later, Any]:
    """Later tasks of a model that is its own teacher, and the task of training all of it."""
    job = prepare(made, Settings(data=x if isinstance(x, dict) else {"x": x}, benchmark=False), silent)
    assert job.inputs is not None
    names, teacher = trainable(made), session(made)
    network = training.Network(made, names)
    fit, check = job.inputs.fit, job.inputs.check
    whole = training.Task(network, lambda feed: run_named(teacher, feed), ["y"], [], fit, check, **changes)
    return Later(job, made, whole, names, lambda _: whole.teacher), whole


def on_frames(*, channels_first: bool = False) -> onnx.ModelProto:
    """Three rows of each sample are multiplied one by one, twice; or the first of all samples before the second."""
    turned = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])] if channels_first else []
    nodes = [
        *turned,
        helper.make_node("Reshape", ["t" if turned else "x", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "v"], ["m"], "second"),
        helper.make_node("Reshape", ["m", "back"], ["b"]),
        *([helper.make_node("Transpose", ["b"], ["y"], perm=[1, 0, 2])] if turned else []),
    ]
    nodes[-1].output[0] = "y"
    back = [3, -1, 8] if channels_first else [-1, 3, 8]
    weights = {name: RNG.standard_normal((8, 8)).astype(np.float32) for name in "wv"}
    return model(nodes, {**weights, "rows": np.array([-1, 8]), "back": np.array(back)}, {"x": ["n", 3, 8]}, {"y": 3})


@pytest.fixture
def pair() -> tuple[onnx.ModelProto, onnx.ModelProto, Array]:
    """A model, the same at ranks that are too low, and inputs."""
    made = two_layers(rank=12)
    x = RNG.standard_normal((80, 24, 16, 16)).astype(np.float32)
    return made, compress(made, ranks=6, benchmark=False).model, x


def test_later_weights_are_trained_and_the_first_stay(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, factorised, x = pair
    names = trainable(factorised)
    still = next(i for i, name in enumerate(names) if name.startswith("fc"))
    monkeypatch.setattr(Later, "choice", lambda *_: Extent(still, 1.0))
    seen: list[str] = []
    tuned = finetune(made, factorised, data={"x": x}, progress=lambda what, *_: seen.append(what), **QUICK).model
    before, after = ({t.name: numpy_helper.to_array(t) for t in one.graph.initializer} for one in (factorised, tuned))
    assert all(np.array_equal(before[name], after[name]) == (name in names[:still]) for name in names)
    other = RNG.standard_normal((20, 24, 16, 16)).astype(np.float32)
    expected, *given = (run(one, x=other)[0] for one in (made, factorised, tuned))
    assert relative(expected, given[1]) < 0.95 * relative(expected, given[0])


def test_what_is_chosen_follows_from_the_time(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, factorised, x = pair
    chooser, whole = subject(factorised, x)
    later_step, fit = 0.001, whole.fit.samples
    monkeypatch.setattr(later, "_step", lambda task, _: 1.0 if task.varied else later_step)
    monkeypatch.setattr(later, "_timed", lambda _: later.LOOK * 100.0)  # to run both models
    assert chooser.choice(Course(minutes=(later.FEW * fit + 5) / 60)) == Extent()
    short = Course(minutes=0.9 * later.FEW * fit / 60)
    choice = chooser.choice(short)
    assert choice.still == 1
    assert choice.share == pytest.approx(later.RUNNING * 60 * short.minutes / (100 * len(x)), rel=0.05)
    assert chooser.choice(replace(short, epochs=4)) == Extent()  # for which there is time
    monkeypatch.setattr(later, "HELD", 2e3)  # which the values that the second layer takes are within
    assert trainable(factorised)[chooser.choice(short).still].startswith("fc")
    later_step = 100.0
    assert chooser.choice(short) == Extent()
    assert chooser.choice(Course(minutes=0)) == Extent()


@pytest.mark.parametrize(
    ("told", "first"), [("FFTT", 2), ("TTTT", 0), ("FFFF", None), ("TNNN", 0), ("FTNN", 1), ("NNNN", None), ("NTNT", 3)]
)
def test_where_some_cannot_be_told_others_are_looked_at(told: str, first: int | None) -> None:
    assert later._first(lambda at: {"F": False, "T": True, "N": None}[told[at]], 0, len(told)) == first


def test_no_time_at_all_is_enough_for_an_epoch(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array], caplog: pytest.LogCaptureFixture
) -> None:
    made, factorised, x = pair
    with caplog.at_level("INFO"):
        finetune(made, factorised, data={"x": x}, minutes=0, **QUICK)
    assert "after 1 epochs" in caplog.text


def test_rows_of_samples_stay_together() -> None:
    x = RNG.standard_normal((40, 3, 8)).astype(np.float32)
    chooser, whole = subject(on_frames(), x)
    task = chooser.task(Extent(1, 1.0))
    assert task is not whole
    [first, *_] = task.fit.feeds
    assert {name: array.shape[1:] for name, array in first.items()} == {"h": (3, 8), later.TOLD + "y": (1, 3, 8)}
    given = task.network.run(task.lead(first), ["y"])[0].detach().numpy()
    assert given == pytest.approx(task.teacher(first)["y"], abs=1e-5)


def test_values_of_all_samples_in_another_order_are_left_alone() -> None:
    x = RNG.standard_normal((40, 3, 8)).astype(np.float32)
    chooser, whole = subject(on_frames(channels_first=True), x)
    assert chooser.task(Extent(1, 1.0)) is whole


def test_feeds_of_one_sample_tell_nothing_of_the_others() -> None:
    x = RNG.standard_normal((40, 3, 8)).astype(np.float32)
    chooser, whole = subject(on_frames(channels_first=True), x)
    feed = whole.fit.feeds[0]
    cut = [some(feed, whole.fit.along, which) for which in (slice(1), slice(1, None))]
    chooser._whole = replace(whole, fit=replace(whole.fit, feeds=cut))
    assert chooser.task(Extent(1, 1.0)) is chooser._whole


def test_samples_that_have_different_numbers_of_rows_are_left_alone() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Reshape", ["h", "rows"], ["r"]),
        helper.make_node("ReduceMax", ["x"], ["largest"], axes=[0, 2], keepdims=0),
        helper.make_node("Relu", ["largest"], ["above"]),
        helper.make_node("NonZero", ["above"], ["places"]),
        helper.make_node("Squeeze", ["places", "first"], ["which"]),
        helper.make_node("Gather", ["r", "which"], ["g"]),
        helper.make_node("MatMul", ["g", "v"], ["m"], "second"),
        helper.make_node("ReduceSum", ["m", "first"], ["y"]),
    ]
    weights = {name: RNG.standard_normal((8, 8)).astype(np.float32) for name in "wv"}
    tensors = {**weights, "rows": np.array([-1, 8]), "first": np.array([0])}
    made = model(nodes, tensors, {"x": [1, 3, 8]}, {"y": 2}, opset=17)
    x = -np.abs(RNG.standard_normal((10, 3, 8))).astype(np.float32)
    for i, sample in enumerate(x):
        sample[: 1 + i % 3] *= -1
    chooser, whole = subject(made, x, fixed=True)
    assert chooser.task(Extent(1, 1.0)) is whole


def test_later_weights_are_not_tried_alone_where_the_model_takes_batches_of_one_size() -> None:
    made = on_frames()
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    chooser, _ = subject(made, RNG.standard_normal((40, 3, 8)).astype(np.float32), fixed=True)
    assert chooser.choice(Course(minutes=0)) == Extent()


def test_masks_of_samples_are_taken() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "v"], ["m"], "second"),
        helper.make_node("Where", ["mask", "m", "zero"], ["y"]),
    ]
    weights = {name: RNG.standard_normal((8, 8)).astype(np.float32) for name in "wv"}
    made = model(nodes, {**weights, "zero": np.array(0, np.float32)}, {"x": ["n", 8]}, {"y": 2})
    made.graph.input.append(helper.make_tensor_value_info("mask", onnx.TensorProto.BOOL, ["n", 8]))
    x = RNG.standard_normal((40, 8)).astype(np.float32)
    chooser, _ = subject(made, {"x": x, "mask": x > 0})
    task = chooser.task(Extent(1, 1.0))
    first = task.fit.feeds[0]
    assert sorted(first) == ["h", "mask", later.TOLD + "y"]
    assert task.network.run(task.lead(first), ["y"])[0].detach().numpy() == pytest.approx(
        task.teacher(first)["y"], abs=1e-5
    )


def test_weights_that_stay_are_not_trained_where_later_nodes_take_them_too() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "v"], ["m"], "second"),
        helper.make_node("MatMul", ["m", "w"], ["y"], "third"),
    ]
    made = model(nodes, {n: RNG.standard_normal((8, 8)).astype(np.float32) for n in "wv"}, {"x": ["n", 8]}, {"y": 2})
    chooser, whole = subject(made, RNG.standard_normal((40, 8)).astype(np.float32))
    task = chooser.task(Extent(1, 1.0))
    assert list(task.network.weights) == ["v"]
    assert list(whole.network.weights) == ["w", "v"]


def test_weights_of_which_the_loss_knows_nothing_are_not_trained_alone() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"], "first"),
        helper.make_node("MatMul", ["y", "v"], ["m"], "second"),
        helper.make_node("ArgMax", ["m"], ["z"]),
    ]
    made = model(nodes, {n: RNG.standard_normal((8, 8)).astype(np.float32) for n in "wv"}, {"x": ["n", 8]}, {"y": 2})
    made.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.INT64, [None, 8]))
    chooser, whole = subject(made, RNG.standard_normal((40, 8)).astype(np.float32))
    assert chooser.task(Extent(1, 1.0)) is whole


def test_a_share_of_the_samples_is_enough() -> None:
    chooser, whole = subject(on_frames(), RNG.standard_normal((400, 3, 8)).astype(np.float32))
    task = chooser.task(Extent(1, 0.1))
    assert (whole.fit.samples, whole.check.samples) == (320, 80)
    assert (task.fit.samples, task.check.samples) == (32, 8)
    assert sum(map(task.fit.batch, task.fit.feeds)) == 32


def test_the_same_is_chosen_again(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, factorised, x = pair
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Later, "choice", lambda *_: Extent(3, 1.0))
    first = finetune(made, factorised, data={"x": x}, cache=tmp_path, **QUICK).model
    monkeypatch.setattr(Later, "choice", lambda *_: Extent())
    caplog.clear()
    assert finetune(made, factorised, data={"x": x}, cache=tmp_path, **QUICK).model == first
    assert "3 of" in caplog.text
