"""Training of the later weights alone."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tucker import compress, later
from onnx_tucker.graph.trainable import trainable
from onnx_tucker.job import prepare
from onnx_tucker.later import Choice, Later
from onnx_tucker.pipeline import finetune
from onnx_tucker.runtime.session import run_named
from onnx_tucker.settings import Settings
from tests.helpers import Array, model, relative, run, session, two_layers

pytest.importorskip("torch")
pytest.importorskip("onnx2torch")
training = pytest.importorskip("onnx_tucker.extras.training")

RNG = np.random.default_rng(0)
QUICK = {"epochs": 20, "benchmark": False, "threads": 1}


def silent(*_: Any) -> None:
    """Tells nobody."""


def subject(made: onnx.ModelProto, x: Array) -> tuple[Later, Any]:
    """Later tasks of a model that is its own teacher, and the task of training all of it."""
    job = prepare(made, Settings(data={"x": x}, benchmark=False), silent)
    assert job.inputs is not None
    names, teacher = trainable(made), session(made)
    network = training.Network(made, names)
    whole = training.Task(network, lambda feed: run_named(teacher, feed), ["y"], [], job.inputs.fit, job.inputs.check)
    return Later(job, made, whole, names, lambda: whole.teacher), whole


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
    monkeypatch.setattr(Later, "choice", lambda *_: Choice(still, 1.0))
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
    enough = later.FEW * whole.fit.samples
    later_step = 0.001
    monkeypatch.setattr(later, "_step", lambda task, _: 1.0 if task.varied else later_step)
    monkeypatch.setattr(later, "_timed", lambda _: later.LOOK * 100.0)  # to run both models
    assert chooser.choice(enough) == Choice()
    choice = chooser.choice(0.9 * enough)
    assert choice.still == 1
    assert choice.share == pytest.approx(later.RUNNING * 0.9 * enough / (100 * len(x)))
    monkeypatch.setattr(later, "HELD", 2e3)  # which the values that the second layer takes are within
    assert trainable(factorised)[chooser.choice(0.9 * enough).still].startswith("fc")
    later_step = 100.0
    assert chooser.choice(0.9 * enough) == Choice()


def test_rows_of_samples_stay_together() -> None:
    x = RNG.standard_normal((40, 3, 8)).astype(np.float32)
    chooser, whole = subject(on_frames(), x)
    task = chooser.task(Choice(1, 1.0))
    assert task is not whole
    [first, *_] = task.fit.feeds
    assert {name: array.shape[1:] for name, array in first.items()} == {"h": (3, 8), later.TOLD + "y": (1, 3, 8)}
    given = task.network.run(task.lead(first), ["y"])[0].detach().numpy()
    assert given == pytest.approx(task.teacher(first)["y"], abs=1e-5)


def test_values_of_all_samples_in_another_order_are_left_alone() -> None:
    x = RNG.standard_normal((40, 3, 8)).astype(np.float32)
    chooser, whole = subject(on_frames(channels_first=True), x)
    assert chooser.task(Choice(1, 1.0)) is whole


def test_a_share_of_the_samples_is_enough() -> None:
    made = on_frames()
    x = RNG.standard_normal((4000, 3, 8)).astype(np.float32)
    chooser, whole = subject(made, x)
    task = chooser.task(Choice(1, 0.1))
    assert task.fit.samples < 0.2 * whole.fit.samples
    assert task.check.samples < 0.2 * whole.check.samples
    assert task.check is not task.fit


def test_the_same_is_chosen_again(
    pair: tuple[onnx.ModelProto, onnx.ModelProto, Array],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made, factorised, x = pair
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Later, "choice", lambda *_: Choice(3, 1.0))
    first = finetune(made, factorised, data={"x": x}, cache=tmp_path, **QUICK).model
    monkeypatch.setattr(Later, "choice", lambda *_: Choice())
    caplog.clear()
    assert finetune(made, factorised, data={"x": x}, cache=tmp_path, **QUICK).model == first
    assert "3 of" in caplog.text
