"""What takes the steps of training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from onnx import helper

from onnx_tucker.course import Course
from tests.helpers import model

torch = pytest.importorskip("torch")
pupil = pytest.importorskip("onnx_tucker.extras.pupil")
Network = pytest.importorskip("onnx_tucker.extras.network").Network

WEIGHT = np.eye(4, dtype=np.float32)
MADE = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT}, {"x": ["n", 4]}, {"y": 2})
BIAS = np.full(4, 0.5, np.float32)
BIASED = model([helper.make_node("Add", ["x", "w"], ["y"])], {"w": BIAS}, {"x": ["n", 4]}, {"y": 2})


def moves(made: object, weight: np.ndarray) -> list[float]:
    """How far steps lead at most, from a weight that is taken anew after half of them."""
    network = Network(made, ["w"])
    learner, found = pupil.Pupil(network, Course(learning_rate=0.1)), []
    for number in range(2 * pupil.SETTLED):
        before = pupil.copied(network)["w"]
        learner.learn(network.weights["w"].sum(), 1.0, 1)
        found.append(float((network.weights["w"] - before).abs().max().detach()))
        if number == pupil.SETTLED - 1:
            learner.back({"w": torch.from_numpy(weight)})
            assert np.array_equal(network.weights["w"].detach(), weight)
    return found


def test_steps_are_small_where_weights_are_new() -> None:
    found = moves(BIASED, BIAS)
    assert found[: pupil.SETTLED] == pytest.approx([0.005 * (i + 1) for i in range(pupil.SETTLED)], rel=0.05)
    assert found[pupil.SETTLED] < 0.2 * found[0]  # it goes on with the size of derivatives, and no momentum


def test_so_are_those_of_matrices() -> None:
    found = moves(MADE, WEIGHT)
    rising = [found[0] * (i + 1) for i in range(pupil.SETTLED)]
    assert found == pytest.approx(rising * 2, rel=0.01)
    full = 0.2 * 0.1 * 0.5  # of the rate and the size of the weight, if all four singular values were alike
    assert 0.6 < found[pupil.SETTLED - 1] / (full / 2) < 1.3  # of derivatives that are all the same there is one


def test_derivatives_that_are_not_finite_move_nothing() -> None:
    network = Network(MADE, ["w"])
    learner, before = pupil.Pupil(network, Course()), pupil.copied(network)["w"]
    assert np.isnan(learner.learn(network.weights["w"].sum() * float("nan"), 1.0, 1))
    assert torch.equal(network.weights["w"], before)
    assert not learner.moved


def test_matrices_are_told_from_others_and_weights_of_many_inputs_take_smaller_steps() -> None:
    matrices = [(64, 4, 3, 3), (64, 256, 3, 3), (10, 27648), (27648, 10)]
    others = [(64,), (1, 64), (512, 16384)]
    network = Network(model([], {}, {"x": [1]}, {"x": 1}), [])
    network.weights = {str(shape): torch.ones(shape) for shape in [*matrices, *others]}
    rates = [[group["lr"] for group in kind] for kind in pupil.groups(network, Course(learning_rate=1.0))]
    assert rates[0] == pytest.approx([1, (128 / 2304) ** 0.5, (128 / 27648) ** 0.5, (128 / 27648) ** 0.5])
    assert rates[1] == pytest.approx([1, 1, (128 / 16384) ** 0.5])


def test_its_mean_is_that_of_the_weights_behind_each_step() -> None:
    network = Network(BIASED, ["w"])
    learner, seen = pupil.Pupil(network, Course(learning_rate=0.1)), []
    for _ in range(4):
        learner.learn(network.weights["w"].sum(), 1.0, 9)
        seen.append(pupil.copied(network)["w"])
    with learner.at_its_mean():
        assert torch.allclose(network.weights["w"], torch.stack(seen).mean(dim=0))
    assert torch.equal(network.weights["w"], seen[-1])


@pytest.mark.parametrize("made", [MADE, BIASED])
def test_a_state_is_gone_on_from(made: object) -> None:
    course = Course(learning_rate=0.1)
    rng = np.random.default_rng(0)
    first, second = Network(made, ["w"]), Network(made, ["w"])
    one = pupil.Pupil(first, course)
    slopes = [torch.from_numpy(rng.standard_normal(first.weights["w"].shape).astype(np.float32)) for _ in range(6)]
    for slope in slopes[:3]:
        one.learn((first.weights["w"] * slope).sum(), 1.0, 2)
    other = pupil.Pupil(second, course)
    other.load(copy.deepcopy(one.state()))  # as it is from a file
    for slope in slopes[3:]:
        one.learn((first.weights["w"] * slope).sum(), 1.0, 2)
        other.learn((second.weights["w"] * slope).sum(), 1.0, 2)
    assert torch.equal(first.weights["w"], second.weights["w"])
