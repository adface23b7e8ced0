"""Models of a search made roughly, all in the same way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from onnx_tucker import calibrate, compress, rough, trust
from onnx_tucker.factorise import Factorised, factorise
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job, prepare, silent
from onnx_tucker.rough import Rough
from onnx_tucker.settings import Settings
from onnx_tucker.types import Basis, Candidate
from tests.helpers import relative, run
from tests.test_allocate import uneven


def planned(job: Job, rank: int) -> dict[str, Candidate]:
    method = calibrate.METHODS["svd"]
    return {f.place.label: Candidate("svd", (rank,), method.stages(f.site.stage, (rank,)), 0.0) for f in job.found}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Basis]:
    """What the chains of all models have been made from."""
    found: list[Basis] = []

    def noted(job: Job, planned_: Mapping[str, Candidate], basis: Basis, **further: Any) -> Factorised:
        found.append(basis)
        return factorise(job, planned_, basis, **further)

    monkeypatch.setattr(rough, "factorise", noted)
    return found


def test_what_the_first_is_fitted_to_all_others_are(made: list[Basis]) -> None:
    model, x = uneven()
    job = prepare(model, Settings(data={"x": x}), silent)
    models = Rough(job)
    errors = [models.error(planned(job, rank)) for rank in (8, 16)]
    assert made[:2] == ["outputs", "influence"]
    assert len(made) == 3
    assert errors[0] > errors[1] > 0


def test_an_error_is_remembered(made: list[Basis]) -> None:
    model, x = uneven()
    job = prepare(model, Settings(data={"x": x}), silent)
    first = Rough(job).error(planned(job, 8))
    made.clear()
    assert Rough(job).error(planned(job, 8)) == first
    assert not made


def test_few_samples_are_weighed_against_the_weights(made: list[Basis]) -> None:
    model, x = uneven()
    job = prepare(model, Settings(data={"x": x[:60]}), silent)
    assert Rough(job).error(planned(job, 8)) < math.inf
    assert made == ["outputs", "weights"]


def test_nothing_planned_is_no_error_and_without_data_it_is_not_known(made: list[Basis]) -> None:
    model, _ = uneven()
    job = prepare(model, Settings(), silent)
    assert Rough(job).error({}) == 0
    error, result = Rough(job).made(planned(job, 8))
    assert math.isnan(error)
    assert result.changed == ["first", "second"]
    assert made == ["weights"]


@pytest.mark.parametrize("heavy", [1, calibrate.HEAVY])
def test_how_far_data_is_trusted_the_first_rough_pass_says(heavy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "HEAVY", heavy)
    looked: list[str] = []
    trusted = trust.trusted

    def counting(found: Found, *about: Any, **further: Any) -> trust.Trust:
        looked.append(found.place.label)
        return trusted(found, *about, **further)

    monkeypatch.setattr(trust, "trusted", counting)
    model, x = uneven()
    tried: list[float] = []
    error = rough.error
    monkeypatch.setattr(rough, "error", lambda *about: tried.append(error(*about)) or tried[-1])
    result = compress(model, ranks="auto", budget="flops:0.5", data={"x": x}, benchmark=False)
    assert len(tried) > 1
    assert looked.count("first") == looked.count("second") == 2  # roughly once, and once to stay
    assert relative(run(model, x=x[:50])[0], run(result.model, x=x[:50])[0]) < 0.3
