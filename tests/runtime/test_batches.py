from __future__ import annotations

import pickle

import numpy as np

from onnx_tucker.runtime.batches import Batches, Cut, Inputs, Stack, feeds_of, folds, shapes_of, some


def test_folds_hold_every_sample_apart_once() -> None:
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    feeds = [{"x": x[i : i + 2]} for i in range(0, 8, 2)]
    for held in ([{"x": x}], feeds, [{"x": x[:5]}, {"x": x[5:]}]):
        both = Batches(8, held, (), frozenset({"x"}))
        made = folds(Inputs("data", both, both), 3)
        assert len(made) == min(3, len(held) if len(held) > 1 else 8)
        apart = np.concatenate([feed["x"] for fold in made for feed in fold.check.feeds])
        assert np.array_equal(np.sort(apart[:, 0]), x[:, 0])
        for fold in made:
            together = np.concatenate([feed["x"] for feed in (*fold.fit.feeds, *fold.check.feeds)])
            assert np.array_equal(np.sort(together[:, 0]), x[:, 0])
            assert fold.fit.samples + fold.check.samples == 8
            assert fold.fit.samples == sum(len(feed["x"]) for feed in fold.fit.feeds)


def test_the_first_hold_at_least_so_many() -> None:
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    feeds, labels = [{"x": x[i : i + 4]} for i in range(0, 10, 4)], [np.arange(i, min(i + 4, 10)) for i in (0, 4, 8)]
    both = Batches(10, feeds, labels, frozenset({"x"}))
    for wanted, held in ((0, 4), (4, 4), (5, 8), (8, 8), (9, 10), (99, 10)):
        first = both.first(wanted)
        assert first.samples == sum(len(feed["x"]) for feed in first.feeds) == held
        assert len(first.labels) == len(first.feeds)


def test_some_are_from_everywhere() -> None:
    x = np.arange(10)[:, None]
    both = Batches(10, [{"x": x[:4]}, {"x": x[4:6]}, {"x": x[6:]}], [x[:4, 0], x[4:6, 0], x[6:, 0]], frozenset({"x"}))
    for count, numbers in ((3, [0, 4, 9]), (1, [0]), (10, list(range(10))), (20, list(range(10)))):
        some = both.spread(count)
        assert some.samples == len(numbers)
        assert np.concatenate([feed["x"] for feed in some.feeds])[:, 0].tolist() == numbers
        assert np.concatenate(some.labels).tolist() == numbers


def test_samples_of_a_single_value_each_are_blank() -> None:
    flat = np.arange(3, dtype=np.float32)[:, None] * np.ones((1, 4), np.float32)
    mask = np.ones((3, 4), np.float32)
    along = frozenset({"x", "mask"})
    assert Batches(3, [{"x": flat, "mask": mask}], (), along).blank
    assert not Batches(3, [{"mask": mask, "x": flat + np.eye(3, 4, dtype=np.float32)}], (), along).blank
    assert not Batches(3, [{"x": flat[:, :1]}], (), frozenset({"x"})).blank  # of which one value is all
    assert Batches(2, [{"x": flat[0]}, {"x": flat[1]}]).blank
    assert not Batches(3, [{"mask": mask, "x": flat[:, :1]}], (), along).blank  # as a step with a first state of zeros
    assert Batches(3, [{"mask": mask, "x": 0 * flat[:, :1]}], (), along).blank


def test_a_single_sample_has_no_folds() -> None:
    single = Batches(1, [{"x": np.ones((1, 3))}], (), frozenset({"x"}))
    assert folds(Inputs("data", single, single), 3) == []


def test_samples_with_numbers_that_are_not_finite_can_be_left_out() -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    x[1, 0], x[4, 1] = np.nan, np.inf
    feeds, labels = [{"x": x[:3], "s": np.ones(())}, {"x": x[3:], "s": np.ones(())}], [np.arange(3), np.arange(3, 6)]
    data = Batches(6, feeds, labels, frozenset({"x"}))
    left = data.finite(whole=False)
    assert left.samples == 4
    assert np.concatenate([feed["x"][:, 0] for feed in left.feeds]).tolist() == [0, 4, 6, 10]
    assert np.concatenate(left.labels).tolist() == [0, 2, 3, 5]
    assert data.finite(whole=True).samples == 0
    single = Batches(2, [{"x": x[1]}, {"x": x[2]}], [np.array(1), np.array(2)])
    assert [feed["x"].tolist() for feed in single.finite(whole=True).feeds] == [[4, 5]]


def test_samples_are_cut_when_they_are_asked_for() -> None:
    x, s = np.arange(24, dtype=np.float32).reshape(12, 2), np.ones(3)
    feeds = feeds_of({"x": x, "s": s}, {"x"}, np.array([0, 2, 4, 6, 8]), 2)
    data = Batches(5, feeds, (), frozenset({"x"}))
    x += 100  # nothing has been copied
    assert [feed["x"][:, 0].tolist() for feed in feeds] == [[100, 104], [108, 112], [116]]
    assert all(feed["s"] is s for feed in feeds)
    assert [data.batch(feed) for feed in feeds] == [2, 2, 1]
    assert shapes_of(feeds[2], 0) == {("x", (1, 2)), ("s", (3,))}
    joined = data.joined
    assert isinstance(joined, Cut)
    assert some(joined, {"x"}, np.array([4, 0]))["x"][:, 0].tolist() == [116, 100]
    assert some(joined, {"x"}, slice(1, 3))["x"][:, 0].tolist() == [104, 108]
    assert pickle.loads(pickle.dumps(feeds[2]))["x"].tolist() == [[116, 117]]
    other = feeds_of({"x": x.copy(), "s": s}, {"x"}, np.array([1]), 1)
    mixed = Batches(6, [*feeds, *other], (), frozenset({"x"})).joined
    assert mixed is not None
    assert mixed["x"][:, 0].tolist() == [100, 104, 108, 112, 116, 102]


def test_stacked_arrays_are_as_one() -> None:
    parts = [np.arange(6).reshape(3, 2), np.arange(6, 8).reshape(1, 2), np.arange(8, 12).reshape(2, 2)]
    stack, whole = Stack(parts), np.concatenate(parts)
    assert stack.shape == whole.shape
    assert stack.nbytes == whole.nbytes
    which = np.array([5, 0, 3, 2, 4, 4])
    assert np.array_equal(stack[which], whole[which])
