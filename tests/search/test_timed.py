"""Points of curves that are timed, by a tuner whose times follow ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from onnx import helper

from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job, silent
from onnx_tucker.planning.tuning import Option, Tuner
from onnx_tucker.planning.ways import untouched
from onnx_tucker.prepare import prepare
from onnx_tucker.search import timed as module
from onnx_tucker.search.curve import Curve, Point
from onnx_tucker.search.timed import refined, timed
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from tests.helpers import model

SIZE = 64
RANKS = range(4, SIZE, 4)


@dataclass
class Paced:
    """A tuner on a machine that takes `pace` milliseconds for each rank."""

    pace: float = 1.0
    hurried: bool = False

    def survey(self, group: Sequence[Found], chains: Sequence[Candidate], *, lower: bool) -> list[Option]:
        options = [Option(untouched(group[0]), self.pace * SIZE)]
        return [*options, *(Option(chain, self.pace * (chain.ranks or (0,))[0]) for chain in chains)]


def tuner(**options: Any) -> Tuner:
    return cast(Tuner, Paced(**options))


def ranks(curve: Curve) -> list[int]:
    return [point.ranks[0] for point in curve.points if point.ranks]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> tuple[Job, Curve, Curve]:
    """A run, a curve of all ranks, and the same with the times of four of them."""
    monkeypatch.setattr(module, "TIMED", 4)
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": np.eye(SIZE, dtype=np.float32)},
        {"x": ["n", SIZE]},
        {"y": 2},
    )
    job = prepare(made, Settings(), silent)
    points = [Point({"flops": rank}, 2.0 ** (-rank / 2), "svd", (rank,)) for rank in RANKS]
    curve = Curve([job.found[0]], [Point({"flops": SIZE}, 0.0), *points])
    return job, curve, timed(job, tuner(), curve, ["flops"])


def test_points_far_apart_in_error_are_timed(known: tuple[Job, Curve, Curve]) -> None:
    _, _, found = known
    assert ranks(found) == [4, 24, 40, 60]
    assert [point.costs for point in found.points[1:]] == [{"flops": rank, "time": rank} for rank in ranks(found)]


def test_further_ones_are_timed_around_one_at_the_same_pace(known: tuple[Job, Curve, Curve]) -> None:
    job, curve, found = known
    more = refined(job, tuner(pace=3.0), curve, found, found.points[2], SIZE, ["flops"])
    assert set(ranks(more)) > set(ranks(found))
    assert {rank for rank in ranks(more) if rank not in ranks(found)} <= set(range(8, 40, 4))
    assert [point.costs["time"] for point in more.points[1:]] == pytest.approx(ranks(more))
    times = {option.candidate.ranks: option.ms for option in more.options}
    assert [times[(rank,)] for rank in ranks(more)] == pytest.approx(ranks(more))


@pytest.mark.parametrize(("options", "whole"), [({"hurried": True}, SIZE), ({}, 1000 * SIZE)])
def test_none_are_where_time_is_over_or_little_of_it_depends_on_them(
    known: tuple[Job, Curve, Curve], options: dict[str, bool], whole: float
) -> None:
    job, curve, found = known
    assert refined(job, tuner(**options), curve, found, found.points[2], whole, ["flops"]) is found
