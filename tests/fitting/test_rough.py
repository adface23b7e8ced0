"""Models made roughly, all in the same way, to choose allocations and how chains are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.adjoints.influence import Influences
from onnx_tucker.factor import METHODS
from onnx_tucker.fitting import calibrate, rough, trial, trust
from onnx_tucker.fitting.factorise import Factorised, factorise
from onnx_tucker.fitting.rough import Rough
from onnx_tucker.fitting.trial import error
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job, silent
from onnx_tucker.prepare import prepare
from onnx_tucker.runtime.batches import Batches
from onnx_tucker.settings import Settings
from onnx_tucker.types import Basis, Candidate
from tests.fitting.test_trial import job_of, network
from tests.fitting.test_trial import planned as tucker
from tests.helpers import Array, model, relative, run
from tests.search.test_allocate import uneven


def planned(job: Job, rank: int) -> dict[str, Candidate]:
    method = METHODS["svd"]
    return {f.label: Candidate("svd", (rank,), method.stages(f.site.stage, (rank,)), 0.0) for f in job.found}


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
    later = Rough(job)
    assert later.error(planned(job, 8)) == first
    assert not made
    later.closest(factorise(job, planned(job, 8), "weights"))
    assert len(made) == 2  # what chains are fitted to is remembered too: so roughly, and in full


def test_what_a_search_has_tried_is_not_tried_again(made: list[Basis]) -> None:
    model_, x = uneven()
    job = prepare(model_, Settings(data={"x": x}), silent)
    models = Rough(job)
    models.error(planned(job, 8))
    made.clear()
    found = models.closest(factorise(job, planned(job, 8), "weights"))
    assert made == [found.basis]  # in full
    made.clear()
    assert Rough(job).closest(factorise(job, planned(job, 16), "weights")).basis in ("outputs", "influence")
    assert made[:2] == ["outputs", "influence"]
    made.clear()
    models.closest(factorise(job, planned(job, 24), "weights"))
    assert len(made) == 2  # roughly by what the first was fitted to, and in full


def test_a_fit_that_there_is_not_leaves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for chains before an operator that derivatives do not pass."""
    model_, x = uneven()
    job = prepare(model_, Settings(data={"x": x}), silent)
    models = Rough(job)
    models.error(planned(job, 8))
    chosen = models.closest(factorise(job, planned(job, 8), "weights")).basis
    other = "outputs" if "influence" in chosen else "influence"
    monkeypatch.setattr(calibrate, "bases", lambda *_: ["weights", other])
    assert models.closest(factorise(job, planned(job, 16), "weights")).basis == other


@pytest.mark.parametrize("samples", [20, 60])
def test_few_samples_are_fitted_to_as_others_say(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each third of them is kept apart once; what the first model is fitted to, all others are."""
    tried: list[Basis] = []

    def noted(fold: Job, planned_: Mapping[str, Candidate], basis: Basis, **further: Any) -> Factorised:
        assert fold in job.folds
        tried.append(basis)
        return factorise(fold, planned_, basis, **further)

    monkeypatch.setattr(trial, "factorise", noted)
    model, x = uneven()
    job = prepare(model, Settings(data={"x": x[:samples]}), silent)
    models = Rough(job)
    assert models.error(planned(job, 8)) < math.inf
    assert tried == ["outputs", "influence"] * 3
    tried.clear()
    made = models.closest(factorise(job, planned(job, 8), "weights"))
    assert made.basis in ("outputs", "influence")
    assert not tried  # again
    models.closest(factorise(job, planned(job, 16), "weights"))
    assert tried[:3] == [made.basis] * 3


@pytest.mark.parametrize(("clearly", "again"), [(math.inf, ["outputs", "influence"]), (1.0, ["outputs"])])
def test_what_was_clearly_further_off_is_not_tried_again(
    clearly: float, again: list[Basis], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rough, "CLEARLY", clearly)
    monkeypatch.setattr(rough, "held_out", lambda *args: dict.fromkeys(args[2], 0.5) | {"outputs": 0.4})
    model, x = uneven()
    job = prepare(model, Settings(data={"x": x[:60]}), silent)
    models = Rough(job)
    models.error(planned(job, 8))
    tried: list[Basis] = []
    monkeypatch.setattr(rough, "held_out", lambda *args: tried.extend(args[2]) or dict.fromkeys(args[2], 0.3))
    models.closest(factorise(job, planned(job, 16), "weights"))
    assert [basis for basis in tried if basis in rough.FITS] == again


def test_of_a_heavy_model_one_part_of_the_data_has_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which has all the time for derivatives."""
    model, x = uneven()
    job = prepare(model, Settings(data={"x": x[:20]}), silent)
    assert job.inputs is not None
    assert sum(fold.inputs.check.samples for fold in job.folds if fold.inputs) == job.inputs.fit.samples
    shares: list[int] = []

    def noted(influences: Influences, batches: Batches, parts: int) -> Influences:
        shares.append(parts)
        return influences

    monkeypatch.setattr(Influences, "of_samples", noted)
    monkeypatch.setattr("onnx_tucker.job.FOLDED_MACS", 0)
    heavy = prepare(model, Settings(data={"x": x[:20]}), silent)
    assert len(heavy.folds) == 1
    assert shares == [1]
    unfitted = factorise(heavy, planned(heavy, 8), "weights")
    assert trial.held_out(heavy, unfitted, ["weights"])["weights"] > 0


def test_more_samples_are_no_worse() -> None:
    """What counts at the outputs is fitted to whatever their number."""
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32) / 4

    weights = {"w0": noise(40, 64), "w1": noise(64, 64), "w2": noise(64, 10)}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "0"),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "w1"], ["c"], "1"),
        helper.make_node("Tanh", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w2"], ["e"], "2"),
        helper.make_node("Softmax", ["e"], ["y"]),
    ]
    made = model(nodes, weights, {"x": ["n", 40]}, {"y": 2})
    x = 16 * noise(464, 8) @ noise(8, 40) + noise(464, 40)
    missed = []
    for samples in (30, 64):
        result = compress(made, ranks="ratio:0.4", data={"x": x[:samples]}, benchmark=False)
        missed.append(relative(run(made, x=x[64:])[0], run(result.model, x=x[64:])[0]))
    assert missed[1] < 1.05 * missed[0]


def test_nothing_planned_is_no_error_and_without_data_it_is_not_known(made: list[Basis]) -> None:
    model, _ = uneven()
    job = prepare(model, Settings(), silent)
    assert Rough(job).error({}) == 0
    error, result = Rough(job).made(planned(job, 8))
    assert math.isnan(error)
    assert result.changed == ["first", "second"]
    assert made == ["weights"]


def test_how_far_data_is_trusted_the_first_rough_pass_says(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    trusted = trust.trusted

    def counting(found: Found, *about: Any, **further: Any) -> trust.Trust:
        looked.append(found.label)
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


@pytest.mark.parametrize(
    ("rectified", "samples", "bases"),
    [
        (True, 0, ["weights"]),
        (
            True,
            80,
            ["weights", "outputs", "influence", "activations", "influence, activations", "influence on activations"],
        ),
        (False, 80, ["weights", "outputs", "influence"]),
    ],
)
def test_the_way_that_changes_the_outputs_least_is_taken(rectified: bool, samples: int, bases: list[str]) -> None:
    job = job_of(network(rectified=rectified), samples)
    ways = calibrate.bases(job, tucker(job))
    assert list(ways) == bases
    errors = {way: error(job, factorise(job, tucker(job), way).model) for way in ways}
    if rectified and samples:  # further on from the worse of the two fits is not tried
        closer = errors["influence"] < errors["outputs"]
        errors = {way: missed for way, missed in errors.items() if way in ways[:3] or closer == ("influence" in way)}
    made = Rough(job).closest(factorise(job, tucker(job), "weights"))
    assert made.basis == min(errors, key=errors.__getitem__)
    assert error(job, made.model) == errors[made.basis]
    assert made.changed == ["conv"]


@pytest.mark.parametrize("seed", range(4))
def test_samples_that_are_not_fitted_to_decide_where_they_are_few(seed: int) -> None:
    """Eight samples of noise look better fitted, and are not; of inputs in few directions, others are too."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((100, 100)).astype(np.float32)
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")], {"w": weight}, {"x": ["n", 100]}, {"y": 2})
    narrow = rng.standard_normal((12, 100))
    for directions, basis in ((np.eye(100), "weights"), (narrow, "outputs")):
        x = (rng.standard_normal((8, len(directions))) @ directions).astype(np.float32)
        job = prepare(made, Settings(data={"x": x}), silent)
        stages = METHODS["svd"].stages(job.found[0].site.stage, (20,))
        planned_ = {"matmul": Candidate("svd", (20,), stages, 0.0)}
        assert calibrate.bases(job, planned_) == ["weights", "outputs"]
        assert Rough(job).closest(factorise(job, planned_, "weights")).basis == basis


def test_samples_that_say_nothing_leave_the_weights() -> None:
    made = network(rectified=True)
    job = prepare(made, Settings(data={"x": np.zeros((8, 10, 8, 8), np.float32)}), silent)
    assert Rough(job).closest(factorise(job, tucker(job), "weights")).basis == "weights"


def test_nothing_planned_is_nothing_made() -> None:
    job = job_of(network(rectified=True), 80)
    assert Rough(job).closest(factorise(job, {}, "weights")).model is job.model
