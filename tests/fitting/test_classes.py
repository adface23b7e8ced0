"""Scores whose bias gives each class its probability in the mean, alone and from end to end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import scipy
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.adjoints.influence import Influences
from onnx_tucker.fitting import classes, head
from onnx_tucker.fitting.rows import Rows
from onnx_tucker.graph.behind import Scores
from onnx_tucker.types import Array, Chain, Stage, Window
from tests.helpers import model, run

STAGE = Stage(5, 8, Window())


def rows(wanted: Array, seen: Array, half: Array) -> Rows:
    return Rows(STAGE, 1, seen, wanted[None], np.zeros((1, *wanted.shape)), half.astype(np.int64))


def shrunk(number: int) -> tuple[Chain, Array, Array, Array]:
    """A chain that gives less than it should, what it sees and gives, and what is wanted."""
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((5, 8)), np.array([2.0, 1.0, 0.0, -1.0, -2.0])
    seen = rng.standard_normal((number, 8))
    return Chain((STAGE,), (weight / 2,), bias), seen, seen @ weight.T / 2 + bias, seen @ weight.T + bias


def probabilities(scores: Array, kind: Scores) -> Array:
    return scipy.special.expit(scores) if kind == "events" else scipy.special.softmax(scores, axis=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["classes", "events"])
def test_each_has_its_probability_in_the_mean_where_both_halves_agree(kind: Scores) -> None:
    chain, seen, given, wanted = shrunk(50)
    twice, halves = np.tile(seen, (2, 1)), np.repeat([0, 1], 50)
    found = classes.corrected(chain, rows(np.tile(wanted, (2, 1)), twice, halves), kind)
    assert found.bias is not None
    assert chain.bias is not None
    after = probabilities(given + found.bias - chain.bias, kind).mean(0)
    assert after == pytest.approx(probabilities(wanted, kind).mean(0), abs=1e-4)
    assert probabilities(given, kind).mean(0) != pytest.approx(after, abs=1e-2)
    assert np.array_equal(found.factors[0], chain.factors[0])


def test_halves_that_say_the_opposite_change_nothing() -> None:
    chain, seen, given, _ = shrunk(50)
    more = np.array([1.0, 0.0, 0.0, 0.0, -1.0])
    wanted = np.concatenate([given + more, given - more])
    found = classes.corrected(chain, rows(wanted, np.tile(seen, (2, 1)), np.repeat([0, 1], 50)), "events")
    assert found.bias == pytest.approx(chain.bias)


def test_a_half_without_rows_changes_nothing() -> None:
    chain, seen, _, wanted = shrunk(50)
    assert classes.corrected(chain, rows(wanted, seen, np.zeros(50)), "classes").bias == pytest.approx(chain.bias)


def test_scores_that_are_not_finite_are_left_alone() -> None:
    chain, seen, _, wanted = shrunk(50)
    wide = rows(wanted, seen, np.arange(50) % 2)
    wide.added[0, 3] = np.inf
    assert classes.corrected(chain, wide, "classes") is chain


def test_what_may_be_no_scores_costs_little() -> None:
    chain, seen, given, _ = shrunk(2000)
    often = np.random.default_rng(0).random((2000, 1)) < 0.3
    wanted = given + np.where(often, [[2.0, 0, 0, 0, -2]], [[-0.6, 0, 0, 0, 0.6]])
    both = rows(wanted, seen, np.arange(2000) % 2)

    def missed(kind: Scores) -> float:
        found = classes.corrected(chain, both, kind)
        assert found.bias is not None
        assert chain.bias is not None
        return float(np.square(given + found.bias - chain.bias - wanted).sum())

    before = float(np.square(given - wanted).sum())
    assert missed("classes") > before * (1 + classes.COST) >= missed("perhaps") > before


def classifier(*behind: str) -> onnx.ModelProto:
    """Two layers and a third that gives scores of classes, of which some are rare."""
    rng = np.random.default_rng(0)
    made = [rng.standard_normal(shape).astype(np.float32) / 5 for shape in ((24, 24), (24, 24), (6, 24))]
    bias = np.linspace(4, -4, 6).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w0"], ["a"], "first", transB=1),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Gemm", ["b", "w1"], ["c"], "second", transB=1),
        helper.make_node("Gemm", ["c", "w2", "bias"], ["s0"], "third", transB=1),
    ]
    nodes += [helper.make_node(op, [f"s{i}"], [f"s{i + 1}"], op) for i, op in enumerate(behind)]
    tensors = {"w0": made[0], "w1": made[1], "w2": made[2], "bias": bias}
    return model(nodes, tensors, {"x": ["n", 24]}, {f"s{len(behind)}": 2})


@pytest.mark.parametrize(("behind", "kind"), [((), "classes"), (("Softmax",), "classes"), (("Sigmoid",), "events")])
def test_others_are_decided_more_alike(behind: tuple[str, ...], kind: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "nodes", lambda *_: [])  # which would bring them close by itself
    monkeypatch.setattr(Influences, "of", lambda *_: None)  # and this too
    original = classifier(*behind)
    x, other = np.random.default_rng(1).standard_normal((2, 2000, 24)).astype(np.float32)

    def off() -> float:
        """How far the probabilities of other samples are from the original's in the mean."""
        slim = compress(original, data={"x": x}, ranks="8", benchmark=False).model
        a, b = (np.asarray(run(made, x=other)[0]) for made in (original, slim))
        a, b = (a, b) if behind else (probabilities(a, kind), probabilities(b, kind))
        return float(np.abs(a.mean(0) - b.mean(0)).sum())

    with_bias = off()
    monkeypatch.setattr(classes, "corrected", lambda chain, *_: chain)
    assert with_bias < off() / 2
