"""How far models are from the original on samples."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker.factor import METHODS
from onnx_tucker.fitting import trial, trust
from onnx_tucker.fitting.factorise import factorise
from onnx_tucker.fitting.trial import error
from onnx_tucker.job import Job, silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from tests.helpers import Array, model

RNG = np.random.default_rng(0)


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
    assert found.is_site
    stages = METHODS["tucker2"].stages(found.site.stage, (4, 4))
    return {"conv": Candidate("tucker2", (4, 4), stages, 0.0)}


def test_it_is_tried_on_as_many_samples_as_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(network(rectified=True), 200)
    made = factorise(job, planned(job), "outputs").model
    few, all_ = error(job, made, 64), error(job, made, 200)
    assert error(job, made) == all_ != few
    monkeypatch.setattr(trust, "LIGHT_MACS", job.sample_macs)
    assert error(job, made) == few
    monkeypatch.setattr(trial, "HEAVY_MACS", 0)
    assert error(job, made) == error(job, made, trial.LEAST)


def test_a_model_that_does_not_run_is_infinitely_far() -> None:
    job = job_of(network(rectified=True), 8)
    broken = onnx.ModelProto()
    broken.CopyFrom(job.model)
    broken.graph.node[0].op_type = "Nonsense"
    assert error(job, broken) == math.inf


def test_a_model_is_no_distance_from_itself() -> None:
    job = job_of(network(rectified=True), 80)
    assert error(job, job.model) == 0.0
