"""How far data is trusted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.factor.moments import Moments
from onnx_tucker.factor.ridge import RIDGES
from onnx_tucker.fitting import trust
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job, silent
from onnx_tucker.prepare import prepare
from onnx_tucker.runtime import inputs
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate, Stage, Window
from tests.helpers import Array, look, model, two_layers

RNG = np.random.default_rng(0)


def job_of(samples: int, size: int = 0) -> Job:
    """A run on a matrix, which sees one position of a sample, or on a convolution that sees many."""
    if size:
        node = helper.make_node("Conv", ["x", "w"], ["y"], "node", pads=[1] * 4)
        weight = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
        made = model([node], {"w": weight}, {"x": ["n", 3, size, size]}, {"y": 4})
        x = RNG.standard_normal((samples, 3, size, size))
    else:
        weight = RNG.standard_normal((8, 6)).astype(np.float32)
        made = model([helper.make_node("MatMul", ["x", "w"], ["y"], "node")], {"w": weight}, {"x": ["n", 8]}, {"y": 2})
        x = RNG.standard_normal((samples, 8))
    return prepare(made, Settings(data={"x": x.astype(np.float32)}), silent)


def test_samples_are_few_or_scarce_and_of_many_positions_each_counts_as_several() -> None:
    told = [(trust.few(job), trust.scarce(job)) for job in map(job_of, (20, 50, 100))]
    assert told == [(True, True), (True, False), (False, False)]
    assert trust.scarce(job_of(10, 16)) is False
    assert trust.few(job_of(10, 16)) is True
    assert trust.few(job_of(4, 64)) is False


def test_the_run_is_lighter_only_where_the_model_is_heavy(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(500)
    assert job.inputs is not None
    assert trust.lighter(job, job.found[0]).inputs == job.inputs
    monkeypatch.setattr(trust, "LIGHT_MACS", job.sample_macs * 100)
    light = trust.lighter(job, job.found[0])
    assert light.inputs is not None
    assert 100 <= light.inputs.fit.samples < 200
    assert not trust.few(light)


def test_nodes_that_see_much_of_a_sample_take_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "LIGHT_MACS", 0)
    monkeypatch.setattr(inputs, "BATCH_BYTES", 1)
    for size, samples in ((0, trust.FEW), (16, 40), (64, trust.ROUGH_SAMPLES)):
        job = job_of(100, size)
        light = trust.lighter(job, job.found[0])
        assert light.inputs is not None
        assert light.inputs.fit.samples == samples


def test_searches_that_begin_alike_share_what_they_find_and_no_others_do() -> None:
    job = job_of(50)
    found, chain = job.found[0], Candidate("svd", (3,), (), 0.0)
    beginnings: list[dict[str, Candidate]] = [{"node": chain}, {"node": replace(chain, ranks=(2,))}, {"node": chain}]
    told = [trust.Trust(ridge, None, True) for ridge in RIDGES[:3]]
    given = [
        trust.Trusts(first).of(job, found, chain, lambda own=own: own, rough=True)
        for first, own in zip(beginnings, told, strict=True)
    ]
    assert given == [told[0], told[1], told[0]]
    other = trust.Trusts(beginnings[0]).of(job, found, chain, lambda: told[2], rough=False)
    assert other == told[2]


def statistics(rows: int, weight: Array, noise: float) -> Moments:
    x = RNG.standard_normal((rows, weight.shape[1]))
    known = Moments.none(Stage(*weight.shape, Window()))
    known.add(x[:, None], (x @ weight.T + noise * RNG.standard_normal((rows, len(weight))))[:, None])
    return known


def product(weight: Array) -> Found:
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"], "n")], {"w": weight.T}, {"x": ["n", 8]}, {"y": 2})
    [found] = look(made)[1]
    return found


def test_what_both_halves_say_is_trusted_and_noise_is_not() -> None:
    weight = RNG.standard_normal((6, 8)).astype(np.float32)
    found = product(weight)
    candidate = Candidate("svd", (3,), (), 0.0)
    other = weight + np.float32(0.5)
    told = trust.trusted(
        found, candidate, (statistics(500, other, 0.0), statistics(500, other, 0.0)), means=False, unsure=False
    )
    noise = trust.trusted(
        found, candidate, (statistics(40, weight, 9.0), statistics(40, weight, 9.0)), means=False, unsure=True
    )
    assert told.ridge == RIDGES[-1]
    assert told.shrink is None
    assert noise.ridge > 1
    assert not told.means


@pytest.mark.parametrize("rows", [1, 2])
def test_a_bias_takes_means_where_there_is_a_spread_about_them(rows: int) -> None:
    weight = RNG.standard_normal((6, 8)).astype(np.float32)
    halves = statistics(rows, weight, 0.0), statistics(2, weight, 0.0)
    told = trust.trusted(product(weight), Candidate("svd", (3,), (), 0.0), halves, means=True, unsure=False)
    assert told.means is (rows >= trust.SPREAD)


def test_weights_in_other_files_are_no_reason_to_find_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, found = np.random.default_rng(0), list[str]()
    trusted = trust.trusted
    monkeypatch.setattr(trust, "trusted", lambda f, *a, **o: found.append(f.label) or trusted(f, *a, **o))
    x, counts = rng.standard_normal((80, 24, 16, 16)).astype(np.float32), []
    for apart in (False, True):
        path = tmp_path / f"{apart}.onnx"
        onnx.save_model(two_layers(), path, save_as_external_data=apart, size_threshold=0)
        found.clear()
        compress(path, ranks="auto", budget="flops:0.4", data={"x": x}, benchmark=False, cache=tmp_path / str(apart))
        counts.append(len(found))
    assert counts[0] == counts[1]
    assert not (tmp_path / "True").exists()  # what follows from files that may change does not outlive the run
