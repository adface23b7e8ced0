"""What a network learns from."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_tucker.course import Course
from onnx_tucker.extras.lessons import LOOKS, Lessons, varied
from onnx_tucker.runtime.batches import Batches

RNG = np.random.default_rng(0)


def samples(count: int, *, labelled: bool = False) -> Batches:
    x = RNG.standard_normal((count, 3)).astype(np.float32)
    return Batches(count, [{"x": x}], [x[:, 0]] if labelled else (), frozenset({"x"}))


@pytest.mark.parametrize(("count", "size"), [(400, 16), (40, 5), (3, 1)])
def test_few_samples_make_small_batches(count: int, size: int) -> None:
    fit = samples(count)
    assert Lessons(fit, fit, Course()).size == size
    assert Lessons(fit, fit, Course(batch=2)).size == min(2, size)
    assert Lessons(fit, fit, Course(), fixed=True).size == count


def test_a_short_feed_makes_no_small_batches() -> None:
    x = RNG.standard_normal((130, 3)).astype(np.float32)
    fit = Batches(130, [{"x": x[:2]}, {"x": x[2:66]}, {"x": x[66:]}], (), frozenset({"x"}))
    assert Lessons(fit, fit, Course()).size == 16


def test_an_epoch_has_every_sample_once_beside_its_label_in_an_order_of_its_own() -> None:
    fit = samples(21, labelled=True)
    lessons = Lessons(fit, fit, Course())
    orders = []
    for number in (0, 1, 0):
        epoch = list(lessons.epoch(number))
        assert len(epoch) == lessons.steps
        seen = np.concatenate([lesson.plain["x"] for lesson in epoch])
        assert np.array_equal(np.concatenate([np.asarray(lesson.labels) for lesson in epoch]), seen[:, 0])
        assert np.array_equal(np.sort(seen, axis=0), np.sort(fit.feeds[0]["x"], axis=0))
        assert not any(np.array_equal(lesson.varied["x"], lesson.plain["x"]) for lesson in epoch)
        orders.append(seen)
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize(("kept", "looks"), [(2, LOOKS), (40, 40), (1, 1)])
def test_few_samples_kept_apart_are_varied_for_the_exam(kept: int, looks: int) -> None:
    exam = Lessons(samples(100), samples(kept), Course()).exam()
    assert sum(count for _, count in exam) == looks
    assert [lesson.varied is lesson.plain for lesson, _ in exam].count(True) == -(-kept // 16)
    assert len(Lessons(samples(100), samples(2), Course(loss="labels")).exam()) == 1


def test_inputs_are_varied_and_integers_are_not() -> None:
    rng = np.random.default_rng(0)
    feed = {"x": RNG.standard_normal((4, 3, 16, 16)).astype(np.float32), "i": np.arange(4)}
    made = varied(feed, {name: array[::-1] for name, array in feed.items()}, rng, feed)
    assert made["x"].shape == feed["x"].shape
    assert not np.array_equal(made["x"], feed["x"])
    assert made["i"] is feed["i"]


def test_images_are_moved_by_an_eighth_and_mirrored_along_the_last_axis() -> None:
    """Mixed with itself, a sample of two points stays one of them: the second is to the right of the first, or left."""
    rng, x = np.random.default_rng(0), np.zeros((1, 1, 32, 32), np.float32)
    x[0, 0, 16, 14], x[0, 0, 16, 17] = 1, 2
    rows, columns, right = set[int](), set[int](), set[bool]()
    for _ in range(200):
        [[made]] = varied({"x": x}, {"x": x}, rng, {"x"})["x"]
        if np.count_nonzero(made) != 2:
            continue  # a box of it is elsewhere
        (row, first), (_, second) = np.argwhere((made > 0.5) & (made < 1.5))[0], np.argwhere(made > 1.5)[0]
        rows.add(int(row))
        columns.add(int(first))
        right.add(bool(first < second))
    assert rows == set(range(12, 21))
    assert min(columns) == 10
    assert max(columns) == 21  # 31 - 10
    assert right == {False, True}


def test_what_is_the_same_for_all_stays_as_it_is() -> None:
    x, s = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32), np.array(2, np.float32)
    part = Batches(40, [{"s": s, "x": x}], (), frozenset({"x"}))
    lessons = Lessons(part, part, Course())
    for lesson in [*lessons.epoch(0), *(lesson for lesson, _ in lessons.exam())]:
        assert lesson.varied["s"] == lesson.plain["s"] == 2
        assert len(lesson.varied["x"]) == len(lesson.plain["x"]) <= Course().batch


def test_samples_of_different_sizes_are_learnt_one_by_one() -> None:
    feeds = [{"x": np.full((1, 3 + i), i, np.float32)} for i in range(6)]
    labels = [np.array([i]) for i in range(6)]
    lessons = Lessons(Batches(6, feeds, labels), Batches(2, feeds[:2]), Course())
    epoch = list(lessons.epoch(0))
    assert lessons.steps == len(epoch) == 6
    assert sorted(lesson.plain["x"].shape[1] for lesson in epoch) == [3, 4, 5, 6, 7, 8]
    assert all(lesson.labels is not None and lesson.labels[0] == lesson.plain["x"][0, 0] for lesson in epoch)
    assert [count for _, count in lessons.exam()] == [1, 1]


def test_half_of_the_inputs_with_axes_behind_the_channels_get_a_box_of_another() -> None:
    x = np.zeros((400, 2, 12, 9), np.float32)
    made = varied({"x": x}, {"x": np.ones_like(x)}, np.random.default_rng(0), {"x"})["x"]
    pasted = [sample for sample in made if set(np.unique(sample)) <= {0, 1}]
    assert 150 < len(pasted) < 250
    for sample in pasted:
        assert np.array_equal(sample[0], sample[1])
        assert sample.any()
    shares = [sample.mean() for sample in pasted]
    assert 0.25 < np.mean(shares) < 0.5  # a half, but for what is cut off at the borders


def test_an_axis_of_nothing_is_left_alone() -> None:
    x = np.zeros((4, 2, 0, 3), np.float32)
    assert varied({"x": x}, {"x": x}, np.random.default_rng(0), {"x"})["x"].shape == x.shape
