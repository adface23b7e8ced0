from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker.adjoints import influence
from onnx_tucker.adjoints.backward import Backward
from onnx_tucker.graph.view import View
from onnx_tucker.job import Job, silent
from onnx_tucker.pipeline import compress
from onnx_tucker.prepare import prepare
from onnx_tucker.runtime.session import Machine
from onnx_tucker.settings import Settings
from tests.helpers import Array, look, model, relative, run, two_layers

RNG = np.random.default_rng(0)


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def job_of(made: onnx.ModelProto, x: Array) -> Job:
    return prepare(made, Settings(data={"x": x}), silent)


def linear(first: Array, second: Array) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "b"], ["y"], "second"),
    ]
    return model(nodes, {"a": first, "b": second}, {"x": ["n", len(first)]}, {"y": 2})


def known(job: Job) -> dict[str, Array | None]:
    assert job.influences is not None
    return {found.label: job.influences.of(found) for found in job.found}


def test_of_a_linear_network_it_is_what_the_later_weight_makes_of_errors() -> None:
    second = noise(6, 40)
    job = job_of(linear(noise(5, 6), second), noise(300, 5))
    found = known(job)
    assert found["second"] is None  # its outputs are the model's
    exact = second @ second.T
    exact = (1 - influence.EVEN) * exact * 6 / np.trace(exact) + influence.EVEN * np.eye(6)
    assert found["first"] is not None
    assert found["first"].shape == (1, 6, 6)
    assert relative(exact, found["first"][0]) < 0.25  # of 256 draws


def test_groups_have_their_own_and_channels_are_where_they_are() -> None:
    """Of eight channels in two groups one is of no use, and one counts a hundred times as much as others."""
    use = np.eye(8, dtype=np.float32).reshape(8, 8, 1, 1)
    use[2, 2], use[5, 5] = 0, 10
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "first", kernel_shape=[3, 3], group=2),
        helper.make_node("Conv", ["h", "u"], ["y"], "second", kernel_shape=[1, 1]),
    ]
    made = model(nodes, {"w": noise(8, 2, 3, 3), "u": use}, {"x": ["n", 4, 6, 7]}, {"y": 4})
    found = known(job_of(made, noise(64, 4, 6, 7)))["first"]
    assert found is not None
    assert found.shape == (2, 4, 4)
    diagonal = np.einsum("gii->gi", found).ravel()
    assert diagonal.mean() == pytest.approx(1)
    assert diagonal[2] == pytest.approx(influence.EVEN)
    others = np.delete(diagonal, [2, 5]) - influence.EVEN
    assert np.allclose((diagonal[5] - influence.EVEN) / others, 100, rtol=1e-3)


@pytest.mark.parametrize("held", [2**28, 2000])
def test_a_model_that_takes_batches_of_one_size_gets_whole_ones(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(influence, "HELD", held)
    made = linear(noise(5, 6), noise(6, 40))
    free = known(job_of(made, noise(300, 5)))["first"]
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10  # of which 256 is no multiple
    found = known(job_of(made, noise(300, 5)))["first"]
    assert free is not None
    assert found is not None
    assert relative(free[0], found[0]) < 0.4


def test_folds_know_nothing_of_the_samples_that_they_are_tried_on() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"], "second"),
    ]
    made = model(nodes, {"a": noise(4, 6), "b": noise(6, 5)}, {"x": ["n", 4]}, {"y": 2})
    job = job_of(made, noise(16, 4))
    [first, *_] = job.found
    assert job.influences is not None
    whole = job.influences.of(first)
    parts = [fold.influences and fold.influences.of(first) for fold in job.folds]
    assert len(parts) == 3
    assert whole is not None
    for part in parts:
        assert part is not None
        assert not np.allclose(part, whole, rtol=1e-3)


def test_the_same_seed_gives_the_same() -> None:
    made, x = two_layers(), noise(16, 24, 16, 16)
    first, second = (known(job_of(made, x)) for _ in range(2))
    assert any(one is not None for one in first.values())
    for label, one in first.items():
        other = second[label]
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)


def test_what_lies_before_an_unknown_operator_is_not_known() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "before"),
        helper.make_node("CumSum", ["h", "axis"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["t"], "behind"),
        helper.make_node("Relu", ["t"], ["r"]),
        helper.make_node("MatMul", ["r", "c"], ["y"], "last"),
    ]
    tensors = {"a": noise(4, 5), "b": noise(5, 6), "c": noise(6, 3), "axis": np.array(1)}
    found = known(job_of(model(nodes, tensors, {"x": ["n", 4]}, {"y": 2}), noise(70, 4)))
    assert found["before"] is None
    assert found["behind"] is not None


def test_sizes_and_choices_take_no_derivatives() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Shape", ["h"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Greater", ["h", "zeros"], ["up"]),
        helper.make_node("Where", ["up", "h", "zeros"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"], "last"),
    ]
    made = model(nodes, {"a": noise(4, 5), "b": noise(5, 3)}, {"x": ["n", 4]}, {"y": 2})
    assert known(job_of(made, noise(70, 4)))["first"] is not None


def test_derivatives_of_a_value_add_up_over_all_that_take_it() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Add", ["h", "r"], ["y"]),
        helper.make_node("Neg", ["h"], ["z"]),
    ]
    made = model(nodes, {"a": noise(4, 5)}, {"x": ["n", 4]}, {"y": 2, "z": 2})
    backward, x = Backward(View.of(made, look(made)[0]), Machine(1), Path(), ["h"], ["y", "z"]), noise(9, 4)
    one, other = noise(9, 5), noise(9, 5)
    [(name, found)] = backward.run({"x": x}, lambda _: {"y": one, "z": other})
    [y, _] = run(made, x=x)
    assert name == "h"
    assert backward.outputs == ["y", "z"]
    away = np.abs(y) > 0.1
    assert np.allclose(found[away], (one * np.where(y > 0, 2, 1) - other)[away], atol=1e-2)


def test_a_low_rank_keeps_what_counts() -> None:
    """The first layer has one strong channel that nothing takes, and that its basis would have to keep."""
    first, second = noise(16, 16), noise(16, 16)
    first[:, 0] *= 5
    second[0] = 0
    x = noise(400, 16)
    made = linear(first, second)
    result = compress(made, ranks="4", data={"x": x[:256]}, benchmark=False, exclude=["second"])
    [wanted], [found] = run(made, x=x[256:]), run(result.model, x=x[256:])
    assert result.report.nodes[0].status == "factorized"
    _, values, _ = np.linalg.svd(first @ second)
    assert relative(wanted, found) < 1.3 * np.sqrt(np.square(values[4:]).sum() / np.square(values).sum())


def test_samples_that_are_not_finite_count_for_nothing() -> None:
    made, x = linear(noise(5, 6), noise(6, 40)), noise(80, 5)
    made.graph.node[1].input[0] = "s"
    made.graph.node.insert(1, helper.make_node("Sigmoid", ["h"], ["s"]))
    x[3, 0], x[60, 2] = np.nan, np.inf
    found = known(job_of(made, x))["first"]
    assert found is not None
    assert np.isfinite(found).all()
    assert found[0].trace() == pytest.approx(6)


def test_a_value_of_one_sample_that_is_too_large_is_not_derived(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, "MOST", 4)
    assert known(job_of(linear(noise(5, 6), noise(6, 4)), noise(70, 5))) == {"first": None, "second": None}


@pytest.mark.parametrize("held", [1, influence.HELD])
def test_samples_are_taken_one_by_one_where_memory_is_short(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, "HELD", held)
    monkeypatch.setattr(influence, "DRAWS", 10)
    job = job_of(linear(noise(5, 6), noise(6, 4)), noise(70, 5))
    sizes: list[int] = []
    run_ = Backward.run
    monkeypatch.setattr(Backward, "run", lambda self, feed, w: sizes.append(len(feed["x"])) or run_(self, feed, w))
    assert known(job)["first"] is not None
    assert sizes == ([1] * 10 if held == 1 else [10])


def test_the_fewer_derivatives_the_more_channels_count_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, x = noise(30, 40), noise(40, 3), noise(70, 30)
    spread = []
    for draws in (4, 256):
        monkeypatch.setattr(influence, "DRAWS", draws)
        found = known(job_of(linear(first, second), x))["first"]
        assert found is not None
        values = np.linalg.eigvalsh(found[0])
        spread.append(values[0] / values[-1])
    exact = np.linalg.eigvalsh(second @ second.T)[-1] / np.square(second).sum() * 40
    assert spread[0] > 2 * spread[1] > influence.EVEN / exact


def test_outputs_that_follow_from_nothing_take_no_derivatives() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Add", ["h", "c"], ["s"]),
        helper.make_node("MatMul", ["s", "b"], ["y"], "second"),
    ]
    made = model(nodes, {"a": noise(4, 5), "b": noise(5, 3), "c": noise(5)}, {"x": ["n", 4]}, {"y": 2, "c": 1})
    assert known(job_of(made, noise(70, 4)))["first"] is not None


def test_what_several_nodes_give_together_is_known_to_those_of_its_groups() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], "whole", kernel_shape=[1]),
        helper.make_node("Conv", ["x", "b"], ["d"], "halves", kernel_shape=[1], group=2),
        helper.make_node("Add", ["c", "d"], ["s"]),
        helper.make_node("Relu", ["s"], ["r"]),
        helper.make_node("Conv", ["r", "e"], ["y"], "last", kernel_shape=[1]),
    ]
    tensors = {"a": noise(16, 16, 1), "b": noise(16, 8, 1), "e": noise(6, 16, 1)}
    made, x = model(nodes, tensors, {"x": ["n", 16, 9]}, {"y": 3}), noise(80, 16, 9)
    job = job_of(made, x)
    assert job.influences is not None
    shapes = {f.label: np.shape(job.influences.of_seen(f, "r")) for f in job.found[:2]}
    assert sorted(shapes.values()) == [(), (2, 8, 8)]
    compress(made, ranks="3", data={"x": x}, exclude=["halves"], benchmark=False)
