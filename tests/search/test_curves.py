"""Errors of nodes over their costs, and how far they carry."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.fit import fit, missed
from onnx_tucker.fitting import calibrate
from onnx_tucker.forms import DIRECT
from onnx_tucker.job import silent
from onnx_tucker.planning import ways
from onnx_tucker.planning.groups import sharing
from onnx_tucker.prepare import prepare
from onnx_tucker.search import curves, sensitivity
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from tests.helpers import Array, model


def noise(*shape: int) -> Array:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


def test_how_far_errors_carry_is_the_same_on_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other nodes of a 3D network are computed in the form that takes the least time."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["h"], "first", pads=[1] * 6),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], "second", pads=[1] * 6),
    ]
    tensors = {"v": noise(8, 4, 3, 3, 3), "w": noise(8, 8, 3, 3, 3)}
    made = model(nodes, tensors, {"x": ["n", 4, 6, 10, 10]}, {"y": 5})
    job = prepare(made, Settings(data={"x": noise(80, 4, 6, 10, 10)}, benchmark=False), silent)
    spliced: list[set[str]] = []
    splice = sensitivity.splice

    def watched(model: onnx.ModelProto, planned: Mapping[str, Candidate], *about: Any) -> onnx.ModelProto:
        spliced.append({candidate.form for candidate in planned.values()})
        return splice(model, planned, *about)

    monkeypatch.setattr(sensitivity, "splice", watched)

    def weights() -> list[float]:
        return [curve.weight for curve in curves.curves(job, ["flops"], list(sharing(job).values()))]

    on_frames = weights()
    assert spliced
    assert all(str(DIRECT) not in forms for forms in spliced)
    monkeypatch.setattr(ways, "forms_of", lambda *_: [DIRECT])
    monkeypatch.setattr(job.memory, "recall", lambda _: None)
    assert weights() == pytest.approx(on_frames, rel=1e-3)


def test_how_far_errors_carry_is_tried_with_moderate_ones(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"], "last"),
    ]
    made = model(nodes, {"w": noise(40, 40), "v": noise(40, 40)}, {"x": ["n", 40]}, {"y": 2})
    job = prepare(made, Settings(data={"x": noise(400, 40)}, benchmark=False), silent)
    list(curves.curves(job, ["flops"], list(sharing(job).values())))
    tried = [float(text.split("an error of ")[1].split()[0]) for text in caplog.messages if "an error of" in text]
    assert tried == pytest.approx([sensitivity.PROBED] * 2, rel=0.5)


def test_errors_are_those_on_other_samples() -> None:
    """Not those on the samples that chains are fitted to, which say too little."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((8, 8)) * 0.6 ** np.arange(8)  # a few directions hold most of the inputs

    def images(number: int) -> Array:
        return np.einsum("ij,njhw->nihw", mix, rng.standard_normal((number, 8, 5, 5))).astype(np.float32)

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["h"], "conv"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["y"], "last"),
    ]
    made = model(nodes, {"w": noise(12, 8, 3, 3), "v": noise(4, 12, 1, 1)}, {"x": ["n", 8, 5, 5]}, {"y": 4})
    few, many = (prepare(made, Settings(data={"x": images(n)}, benchmark=False), silent) for n in (24, 2000))
    found = few.found[0]
    [curve, _] = curves.curves(few, ["flops"], list(sharing(few).values()))
    goals, others = (next(calibrate.goals(job, job.found[:1])) for job in (few, many))
    assert goals is not None
    assert others is not None
    points = [point for point in curve.points if point.error > 0.01]
    assert len(points) > 5
    fitted, true = [], []
    for point in points:
        method = METHODS[point.method or ""]
        weight = reconstruct(fit(method, found.site.stage, point.ranks or (), goals.whole, 1))
        for errors, wanted in ((fitted, goals.whole), (true, others.whole)):
            errors.append(missed(wanted, weight))
    said = np.array([point.error for point in points])

    assert np.abs(np.log(said / true)).mean() < 0.3 * np.abs(np.log(np.array(fitted) / true)).mean()


@pytest.mark.parametrize("prefix", ["", "/blocks/blocks.1/features/"])
@pytest.mark.parametrize("pick", [1, -1])
def test_what_a_chain_takes_in_a_file_is_known_before(prefix: str, pick: int) -> None:
    """Of small ones most is not their weights, but what is said of them."""
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["h"], f"{prefix}first", pads=[1] * 4),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w"], ["y"], f"{prefix}second", pads=[1] * 4),
    ]
    made = model(nodes, {"v": noise(12, 8, 3, 3), "w": noise(12, 12, 3, 3)}, {"x": ["n", 8, 6, 6]}, {"y": 4})
    job = prepare(made, Settings(benchmark=False), silent)
    known, ranks = float(job.size), {}
    for curve in curves.curves(job, ["bytes"], list(sharing(job).values())):
        point = curve.points[pick]
        known += point.costs["bytes"] - curve.points[0].costs["bytes"]
        ranks[curve.group[0].label] = {"method": point.method, "ranks": list(point.ranks or ())}
    found = compress(made, ranks=ranks, benchmark=False).report
    assert [node.method for node in found.nodes] == [entry["method"] for entry in ranks.values()]
    assert found.totals.file_bytes.after == pytest.approx(known, rel=0.08)
