"""Losses on labels."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.errors import DataError

torch = pytest.importorskip("torch")
labels = pytest.importorskip("onnx_tucker.extras.labels")
functional = torch.nn.functional

RNG = np.random.default_rng(0)
LOGITS = RNG.standard_normal((6, 5)).astype(np.float32)
CLASSES = RNG.integers(0, 5, 6)


def loss(told: object, output: object, maker: str = "", axis: int | None = None, scores: str = "") -> float:
    found = labels.criterion([told], {"y": output}, {"y": labels.Maker(maker, axis, scores)})
    assert found.output == (scores or "y")
    return float(found.loss(torch.from_numpy(output), labels.tensor(told)))


def test_classes_whatever_the_model_ends_in() -> None:
    made = torch.from_numpy(LOGITS)
    expected = float(functional.cross_entropy(made, torch.from_numpy(CLASSES)))
    assert loss(CLASSES, LOGITS) == pytest.approx(expected)
    assert loss(CLASSES, made.softmax(1).numpy(), "Softmax") == pytest.approx(expected, rel=1e-5)
    assert loss(CLASSES, made.log_softmax(1).numpy(), "LogSoftmax") == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(loss(np.array([1]), np.array([[1, 0]], np.float32), "Softmax"))


@pytest.mark.parametrize("told", [CLASSES, np.eye(5, dtype=np.int64)[CLASSES]])
def test_classes_of_a_sigmoid_are_each_of_two(told: object) -> None:
    wanted, made = torch.eye(5)[torch.from_numpy(CLASSES)], torch.from_numpy(LOGITS)
    expected = float(functional.binary_cross_entropy_with_logits(made, wanted))
    assert loss(told, made.sigmoid().numpy(), "Sigmoid") == pytest.approx(expected, rel=1e-5)
    assert loss(told, LOGITS, "Sigmoid", scores="s") == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("maker", ["Softmax", "Sigmoid"])
def test_what_is_wrong_by_far_still_learns(maker: str) -> None:
    """The probability of the right class is 0 in single precision, so that it would have no derivative."""
    told, scores = np.array([[0, 1]]), torch.tensor([[200.0, -200.0]], requires_grad=True)
    found = labels.criterion([told], {"y": np.float32([[1, 0]])}, {"y": labels.Maker(maker, None, "scores")})
    found.loss(scores, labels.tensor(told)).backward()
    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]


def test_where_two_axes_could_be_classes_the_one_that_is_compared_along_is() -> None:
    output, told = RNG.standard_normal((2, 5, 5)).astype(np.float32), RNG.integers(0, 5, (2, 5))
    expected = functional.cross_entropy(torch.from_numpy(output).movedim(2, 1), torch.from_numpy(told))
    assert loss(told, output, "LogSoftmax", -1) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("axis", [1, 3])
def test_classes_of_every_place(axis: int) -> None:
    output = np.moveaxis(RNG.standard_normal((2, 5, 3, 4)).astype(np.float32), 1, axis)
    told = RNG.integers(0, 5, (2, 3, 4))
    expected = functional.cross_entropy(torch.from_numpy(output).movedim(axis, 1), torch.from_numpy(told))
    assert loss(told, output) == pytest.approx(float(expected), rel=1e-5)


def test_classes_that_are_moved_have_a_gradient() -> None:
    """torch computes none of values that are in another order in memory."""
    output, told = np.zeros((2, 5, 3, 4), np.float32), RNG.integers(0, 5, (2, 3, 4))
    found = labels.criterion([told], {"y": output}, {"y": labels.Maker("Softmax", 1)})
    scores = torch.zeros(2, 3, 4, 5, requires_grad=True)
    found.loss(scores.softmax(3).movedim(3, 1), labels.tensor(told)).backward()
    assert torch.isfinite(scores.grad).all()


def test_one_of_them_is_one() -> None:
    told = np.eye(5, dtype=np.int64)[CLASSES]
    assert loss(told, LOGITS) == pytest.approx(loss(CLASSES, LOGITS))
    several = told | np.roll(told, 1, axis=1)
    expected = functional.binary_cross_entropy_with_logits(torch.from_numpy(LOGITS), torch.from_numpy(several).float())
    assert loss(several, LOGITS) == pytest.approx(float(expected), rel=1e-5)


def test_two_classes_of_one_value() -> None:
    output, told = LOGITS[:, :1], CLASSES % 2
    wanted = torch.from_numpy(told.astype(np.float32))[:, None]
    expected = float(functional.binary_cross_entropy_with_logits(torch.from_numpy(output), wanted))
    assert loss(told, output) == pytest.approx(expected)
    assert loss(told, torch.from_numpy(output).sigmoid().numpy(), "Sigmoid") == pytest.approx(expected, rel=1e-5)


def test_values() -> None:
    told = LOGITS + RNG.standard_normal(LOGITS.shape)
    assert loss(told, LOGITS) == pytest.approx(np.mean((told - LOGITS) ** 2) / np.var(told), rel=1e-5)


def test_what_is_no_number_is_refused() -> None:
    for told in (np.array(["a"] * 6), np.array([np.nan] * 6)):
        with pytest.raises(DataError, match="not all numbers"):
            loss(told, LOGITS[:, :1])


def test_the_first_output_that_fits() -> None:
    outputs = {"a": LOGITS[:, :3], "b": LOGITS}
    assert labels.criterion([CLASSES, np.array([4])], outputs, {}).output == "b"
    with pytest.raises(DataError, match="from 0 to 7, are neither classes"):
        labels.criterion([CLASSES * 0, np.array([7])], outputs, {})
    with pytest.raises(DataError, match="neither classes"):
        labels.criterion([CLASSES - 1], outputs, {})
