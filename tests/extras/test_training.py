"""Training a network to match a teacher."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker.course import Course
from onnx_tucker.extras.lessons import Lessons
from onnx_tucker.graph.segment import probe
from onnx_tucker.runtime.batches import Batches
from onnx_tucker.runtime.session import run_named
from tests.helpers import model, session

torch = pytest.importorskip("torch")
training = pytest.importorskip("onnx_tucker.extras.training")
put = pytest.importorskip("onnx_tucker.extras.pupil").put

RNG = np.random.default_rng(0)
WEIGHTS = {name: (RNG.standard_normal((16, 16)) / 4).astype(np.float32) for name in ("w", "v")}


def made(weights: dict[str, Any]) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Tanh", ["h"], ["t"], "tanh"),
        helper.make_node("MatMul", ["t", "v"], ["y"], "second"),
    ]
    return model(nodes, weights, {"x": ["n", 16]}, {"y": 2})


def task(count: int = 40, **changes: Any) -> Any:
    """A network whose weights are a little off, and the one that knows them."""
    start = {n: w + 0.05 * RNG.standard_normal(w.shape).astype(np.float32) for n, w in WEIGHTS.items()}
    parts = [RNG.standard_normal((size, 16)).astype(np.float32) for size in (count, max(1, count // 4))]
    fit, check = (Batches(len(part), [{"x": part}], (), frozenset({"x"})) for part in parts)
    teacher = partial(run_named, session(made(WEIGHTS)))
    network = training.Network(made(start), list(WEIGHTS))
    return training.Task(network, teacher, ["y"], [], fit, check, **changes)


def shares(subject: Any, course: Course, tmp_path: Path) -> tuple[Any, float]:
    """What came of it, and the share of the rate at the end."""
    trained = training.train(subject, course, lambda *_: None, tmp_path / "state")
    return trained, torch.load(tmp_path / "state", weights_only=True)["standing"]["share"]


def test_it_comes_close(tmp_path: Path) -> None:
    trained, share = shares(task(), Course(epochs=40), tmp_path)
    assert trained.after < 0.1 * trained.before
    assert share == 1.0


def test_where_steps_are_too_large_it_goes_back_and_takes_smaller_ones(tmp_path: Path) -> None:
    trained, share = shares(task(), Course(epochs=40, learning_rate=3.0), tmp_path)
    assert share <= training.SLOWER**2
    assert trained.after < 0.5 * trained.before


def test_where_epochs_bring_nothing_it_goes_back_and_takes_smaller_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, *[1.1] * 100])
    monkeypatch.setattr(training, "_examined", lambda *_: next(losses))
    trained, share = shares(task(), Course(epochs=40), tmp_path)
    assert trained.epochs == 30  # it goes back after the 11th and the 22nd
    assert share == pytest.approx(training.SLOWER**2)


def test_while_the_loss_falls_it_goes_on_though_it_is_above_that_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, *np.linspace(1.19, 0.9, 40).tolist()])
    monkeypatch.setattr(training, "_examined", lambda *_: next(losses))
    trained, share = shares(task(), Course(epochs=40), tmp_path)
    assert (trained.after, share) == (pytest.approx(0.9), 1.0)


def test_the_more_is_spoilt_the_lower_the_rate_becomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for loss in (1.5, 5.0, 1e9, np.nan):
        losses = iter([1.0, loss])
        monkeypatch.setattr(training, "_examined", lambda *_, losses=losses: next(losses))
        found.append(shares(task(), Course(epochs=1), tmp_path)[1] / training.SLOWER)
        (tmp_path / "state").unlink()
    assert found == pytest.approx([1.0, 0.5, training.LEAST_SHARE, training.LEAST_SHARE])


def test_values_that_are_not_finite_are_not_learnt() -> None:
    subject = task()

    def teacher(feed: Any) -> Any:
        wanted = {name: array.copy() for name, array in subject.teacher(feed).items()}
        wanted["y"][0, 0], wanted["y"][0, 1] = np.nan, np.inf
        return wanted

    trained = training.train(training.Task(**{**vars(subject), "teacher": teacher}), Course(epochs=20), lambda *_: None)
    assert trained.after < 0.2 * trained.before


def test_values_on_the_way_are_learnt_too() -> None:
    """Here only the outputs are right at the start, as what is before them is in another order."""
    start = {"w": np.roll(WEIGHTS["w"], 1, axis=1), "v": np.roll(WEIGHTS["v"], 1, axis=0)}
    network = training.Network(made(start), list(WEIGHTS))
    teacher = partial(run_named, session(probe(made(WEIGHTS), ["h", "y"])))
    subject = replace(task(), network=network, teacher=teacher, hidden=["h"])
    trained = training.train(subject, Course(epochs=20, learning_rate=0.05), lambda *_: None)
    assert 1 < trained.after < 0.8 * trained.before


def test_samples_kept_apart_count_alike_in_batches_of_any_size() -> None:
    subject = task(80, varied=False)
    courses = [Course(epochs=1, learning_rate=0, batch=size) for size in (20, 16)]
    losses = [training.train(subject, course, lambda *_: None).before for course in courses]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_there_are_as_many_epochs_as_the_time_allows() -> None:
    seen: list[tuple[int, int]] = []
    training.train(task(), Course(epochs=10**6, minutes=0.01), lambda done, of, *_: seen.append((done, of)))
    assert seen[0][1] < 10**6
    assert {of for _, of in seen} == {seen[0][1]}


def test_a_run_goes_on_where_it_was_also_after_it_went_astray(tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(done: int, *_: object) -> None:
        if done == 6:
            raise StopError

    course, state = Course(epochs=12, learning_rate=3.0), tmp_path / "state"
    subject = task()
    start = {name: weight.detach().clone() for name, weight in subject.network.weights.items()}
    whole = training.train(subject, course, lambda *_: None)
    put(subject.network, start)
    with pytest.raises(StopError):
        training.train(subject, course, stop, state)
    assert torch.load(state, weights_only=True)["standing"]["share"] < 1
    for _ in range(2):  # the second time there is nothing left to do
        put(subject.network, start)
        again = training.train(subject, course, lambda *_: None, state)
        assert (again.epochs, again.after) == (whole.epochs, whole.after)
        assert all(np.array_equal(again.weights[name], whole.weights[name]) for name in whole.weights)
    state.write_bytes(b"damaged")
    put(subject.network, start)
    assert training.train(subject, course, lambda *_: None, state).after == whole.after


def test_scales_are_of_all_samples() -> None:
    subject = task()
    feed = subject.fit.feeds[0]
    single = Batches(40, [{"x": feed["x"][i : i + 1]} for i in range(40)], (), frozenset({"x"}))
    apart = training.Task(**{**vars(subject), "fit": single, "fixed": True})
    scales = [training._scales(one, Lessons(one.fit, one.check, Course(), fixed=one.fixed)) for one in (subject, apart)]
    assert scales[0]["y"] == pytest.approx(np.var(subject.teacher(feed)["y"]), rel=1e-5)
    assert scales[1] == pytest.approx(scales[0], rel=1e-5)


def test_a_single_sample_is_enough_to_run(tmp_path: Path) -> None:
    trained, _ = shares(task(1), Course(epochs=3), tmp_path)
    assert trained.epochs == 3


def test_the_state_is_kept_as_often_as_there_is_time_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of large networks and few samples, keeping it takes as long as an epoch."""
    saved, now = list[int](), [0.0]

    def save(_: Path, content: dict[str, Any]) -> None:
        saved.append(content["standing"]["epoch"])
        now[0] += 1.0

    monkeypatch.setattr(training, "_save", save)
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def watch(*_: object) -> None:
        now[0] += 2.0

    training.train(task(), Course(epochs=20), watch, tmp_path / "state")
    assert saved == [1, 5, 9, 14, 18, 20]  # after 3, 11, 20, 31 and 40 seconds
