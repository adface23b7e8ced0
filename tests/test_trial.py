"""Models tried on samples, to choose how chains are made."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import calibrate, trust
from onnx_tucker.factorise import factorise
from onnx_tucker.job import Job, prepare, silent
from onnx_tucker.settings import Settings
from onnx_tucker.trial import closest, error
from onnx_tucker.types import Candidate, Site
from tests.helpers import Array, model

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _same_for_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "RNG", np.random.default_rng(0))


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def network(*, rectified: bool) -> onnx.ModelProto:
    behind = helper.make_node("Relu", ["c"], ["y"])
    if not rectified:
        behind = helper.make_node("AveragePool", ["c"], ["y"], kernel_shape=[2, 2])
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv"), behind]
    tensors = {"w": noise(12, 10, 3, 3), "b": noise(12) - np.float32(5)}
    return model(nodes, tensors, {"x": ["n", 10, 8, 8]}, {"y": 4})


def job_of(made: onnx.ModelProto, samples: int) -> Job:
    mixing = noise(10, 10) @ np.diag(np.logspace(0, -1, 10)).astype(np.float32)  # channels depend on each other
    data = {"data": {"x": np.einsum("nihw,io->nohw", noise(samples, 10, 8, 8), mixing)}} if samples else {}
    return prepare(made, Settings(**data), silent)


def planned(job: Job) -> dict[str, Candidate]:
    found = job.found[0]
    assert isinstance(found.reading.found, Site)
    stages = calibrate.METHODS["tucker2"].stages(found.site.stage, (4, 4))
    return {"conv": Candidate("tucker2", (4, 4), stages, 0.0)}


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
    ways = calibrate.bases(job, planned(job))
    assert list(ways) == bases
    errors = {way: error(job, factorise(job, planned(job), way).model) for way in ways}
    if rectified and samples:  # further on from the worse of the two fits is not tried
        closer = errors["influence"] < errors["outputs"]
        errors = {way: missed for way, missed in errors.items() if way in ways[:3] or closer == ("influence" in way)}
    made = closest(job, factorise(job, planned(job), "weights"))
    assert made.basis == min(errors, key=errors.__getitem__)
    assert error(job, made.model) == errors[made.basis]
    assert made.changed == ["conv"]


def test_it_is_tried_on_as_many_samples_as_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(network(rectified=True), 200)
    made = factorise(job, planned(job), "outputs").model
    few, all_ = error(job, made, 64), error(job, made, 200)
    assert error(job, made) == all_ != few
    monkeypatch.setattr(trust, "LIGHT_MACS", job.sample_macs)
    assert error(job, made) == few


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
        stages = calibrate.METHODS["svd"].stages(job.found[0].site.stage, (20,))
        planned_ = {"matmul": Candidate("svd", (20,), stages, 0.0)}
        assert calibrate.bases(job, planned_) == ["weights", "outputs"]
        assert closest(job, factorise(job, planned_, "weights")).basis == basis


def test_samples_that_say_nothing_leave_the_weights() -> None:
    made = network(rectified=True)
    job = prepare(made, Settings(data={"x": np.zeros((8, 10, 8, 8), np.float32)}), silent)
    assert closest(job, factorise(job, planned(job), "weights")).basis == "weights"


def test_nothing_planned_is_nothing_made() -> None:
    job = job_of(network(rectified=True), 80)
    assert closest(job, factorise(job, {}, "weights")).model is job.model


def test_a_model_that_does_not_run_is_infinitely_far() -> None:
    job = job_of(network(rectified=True), 8)
    broken = onnx.ModelProto()
    broken.CopyFrom(job.model)
    broken.graph.node[0].op_type = "Nonsense"
    assert error(job, broken) == math.inf


def test_a_model_is_no_distance_from_itself() -> None:
    job = job_of(network(rectified=True), 80)
    assert error(job, job.model) == 0.0


@pytest.mark.parametrize(("samples", "told"), [(12, True), (50, False), (100, True)])
def test_what_counts_is_fitted_to_where_other_samples_or_many_tell(samples: int, told: bool) -> None:
    """A fifth of them is kept for checks."""
    weight = noise(20, 20)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "conv"), helper.make_node("MatMul", ["h", "v"], ["y"])]
    made = model(nodes, {"w": weight, "v": noise(20, 8)}, {"x": ["n", 20]}, {"y": 2})
    job = prepare(made, Settings(data={"x": noise(samples, 20)}), silent)
    found = job.found[0]
    stages = calibrate.METHODS["svd"].stages(found.site.stage, (4,))
    assert ("influence" in calibrate.bases(job, {found.place.label: Candidate("svd", (4,), stages, 0.0)})) == told
