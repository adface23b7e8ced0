"""What takes the steps of training."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnx_tucker.settings import Course
from tests.helpers import model

torch = pytest.importorskip("torch")
pupil = pytest.importorskip("onnx_tucker.extras.pupil")
Network = pytest.importorskip("onnx_tucker.extras.network").Network

WEIGHT = np.eye(4, dtype=np.float32)
MADE = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": WEIGHT}, {"x": ["n", 4]}, {"y": 2})


def test_steps_are_small_where_weights_are_new() -> None:
    network = Network(MADE, ["w"])
    learner = pupil.Pupil(network, Course(learning_rate=0.1))
    moves = []
    for number in range(2 * pupil.SETTLED):
        before = pupil.copied(network)["w"]
        learner.learn(network.weights["w"].sum(), 1.0, 1)
        moves.append(float((network.weights["w"] - before).abs().max().detach()))
        if number == pupil.SETTLED - 1:
            learner.back({"w": torch.from_numpy(WEIGHT)})
            assert np.array_equal(network.weights["w"].detach(), WEIGHT)
    assert moves[: pupil.SETTLED] == pytest.approx([0.005 * (i + 1) for i in range(pupil.SETTLED)], rel=0.05)
    assert moves[pupil.SETTLED] < 0.2 * moves[0]  # it goes on with the size of derivatives, and no momentum


def test_derivatives_that_are_not_finite_move_nothing() -> None:
    network = Network(MADE, ["w"])
    learner, before = pupil.Pupil(network, Course()), pupil.copied(network)["w"]
    assert np.isnan(learner.learn(network.weights["w"].sum() * float("nan"), 1.0, 1))
    assert torch.equal(network.weights["w"], before)
    assert not learner.moved


def test_weights_of_many_inputs_take_smaller_steps() -> None:
    sizes = [(64, 4, 3, 3), (64, 256, 3, 3), (10, 27648), (27648, 10), (64,)]
    network = Network(model([], {}, {"x": [1]}, {"x": 1}), [])
    network.weights = {str(shape): torch.ones(shape) for shape in sizes}
    rates = [group["lr"] for group in pupil.groups(network, Course(learning_rate=1.0))]
    assert rates == pytest.approx([1, (128 / 2304) ** 0.5, (128 / 27648) ** 0.5, (128 / 27648) ** 0.5, 1])
