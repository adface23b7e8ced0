"""The last linear nodes, fitted together."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.adjoints.influence import Influences
from onnx_tucker.fitting import classes, head
from onnx_tucker.fitting.rows import Rows
from onnx_tucker.fitting.sequential import Fitting
from onnx_tucker.fitting.statistics import ROWS
from onnx_tucker.graph.behind import Scores
from onnx_tucker.graph.find import Found
from onnx_tucker.job import silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from onnx_tucker.types import Array, Candidate, Chain
from tests.helpers import model, relative, run

RNG = np.random.default_rng(0)


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def perceptron(*, twice: bool = False, last: str = "Softmax") -> onnx.ModelProto:
    """Three layers, of the first of which little is needed; the second one's values are used twice if asked for."""
    nodes = [
        helper.make_node("Gemm", ["x", "a", "p"], ["g"], "first", transB=1),
        helper.make_node("Relu", ["g"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["m"], "second"),
        helper.make_node("Add", ["m", "q"], ["n"]),
        helper.make_node("Sigmoid", ["n"], ["s"]),
        helper.make_node("Gemm", ["s", "c", "t"], ["z"], "third", transB=1),
        helper.make_node(last, ["z"], ["y"]),
    ]
    if twice:
        nodes.append(helper.make_node("Neg", ["s"], ["w"]))
    tensors = {"a": noise(24, 32) / 6, "p": noise(24), "b": noise(24, 20) / 3, "q": noise(20), "c": noise(6, 20)}
    tensors["t"] = noise(6)
    tensors["b"][4:] *= 0.01
    outputs = {"y": 2, **({"w": 2} if twice else {})}
    return model(nodes, {name: array.astype(np.float32) for name, array in tensors.items()}, {"x": ["n", 32]}, outputs)


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ({}, ["first", "second", "third"]),
        ({"twice": True}, []),
        ({"last": "Relu"}, []),
    ],
)
def test_which_they_are(options: dict[str, Any], labels: list[str]) -> None:
    job = prepare(perceptron(**options), Settings(benchmark=False), silent)
    assert [one.label for one in head.nodes(job.view, job.found)] == labels


def test_outputs_come_closer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Influences, "of", lambda *_: None)  # which brings them as close by itself
    made, mixed = perceptron(), noise(8, 32)
    x, other = ((noise(800, 8) @ mixed).astype(np.float32) for _ in range(2))
    options: dict[str, Any] = {"ranks": 2, "data": {"x": x}, "benchmark": False}
    wanted = run(made, x=other)[0]
    together = relative(wanted, run(compress(made, **options).model, x=other)[0])
    monkeypatch.setattr(head, "nodes", lambda *_: {})
    assert together < 0.9 * relative(wanted, run(compress(made, **options).model, x=other)[0])


def test_wide_layers_are_given_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepare(perceptron(), Settings(benchmark=False), silent)
    asked = []

    def rows(_: Found, most: int) -> None:
        asked.append(most)

    for values in (head.VALUES, 320):
        monkeypatch.setattr(head, "VALUES", values)
        last = head.Head(job.view, job.found)
        last.take(job.found[0], None, rows)
        assert not last.fitted(rows)
    assert asked == [ROWS, 10]  # the widest has 32 inputs


def test_the_bias_of_scores_is_corrected_once_where_no_fit_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    corrections = []

    def corrected(chain: Chain, _: Rows, scores: Scores) -> Chain:
        corrections.append(scores)
        return chain

    monkeypatch.setattr(head, "refitted", lambda layers, *_: list(layers))
    monkeypatch.setattr(classes, "corrected", corrected)
    x = noise(300, 32).astype(np.float32)
    compress(perceptron(), ranks=2, data={"x": x}, benchmark=False)
    # Roughly of both fits and of what activations let through, alike and as it counts; and of the one that is taken.
    assert len(corrections) == 5


def test_normalised_values_are_seen_as_such(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["g"], "first", transB=1),
        helper.make_node("BatchNormalization", ["g", "s", "t", "m", "v"], ["n"]),
        helper.make_node("Gemm", ["n", "b"], ["y"], "second", transB=1),
    ]
    tensors = {"a": noise(24, 32) / 6, "b": noise(6, 24), **{name: noise(24) for name in "stm"}, "v": noise(24) ** 2}
    made = model(nodes, {n: array.astype(np.float32) for n, array in tensors.items()}, {"x": ["n", 32]}, {"y": 2})
    job = prepare(made, Settings(benchmark=False, data={"x": noise(300, 32).astype(np.float32)}), silent)
    candidates = {f.label: f.own(Candidate("svd", (2,), (), 0.0)) for f in job.found}
    fitting = Fitting(job, candidates, "outputs", rough=False)
    assert [found for found, _ in fitting.chains(job.found)] == job.found
    assert "the last 2 layers together" in caplog.text
