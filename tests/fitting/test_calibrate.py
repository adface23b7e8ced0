"""What chains can be made from."""

from __future__ import annotations

import pytest
from onnx import helper

from onnx_tucker.factor import METHODS
from onnx_tucker.fitting import calibrate
from onnx_tucker.job import silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from tests.fitting.test_trial import noise
from tests.helpers import model


@pytest.mark.parametrize(("samples", "seen"), [(12, False), (50, True), (100, True)])
def test_few_samples_are_not_fitted_to_what_activations_see(samples: int, seen: bool) -> None:
    """A fifth of them is kept for checks."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    made = model(nodes, {"w": noise(20, 20), "v": noise(20, 8)}, {"x": ["n", 20]}, {"y": 2})
    job = prepare(made, Settings(data={"x": noise(samples, 20)}), silent)
    stages = METHODS["svd"].stages(job.found[0].site.stage, (4,))
    bases = calibrate.bases(job, {"first": Candidate("svd", (4,), stages, 0.0)})
    assert bases[:3] == ["weights", "outputs", "influence"]
    assert ("activations" in bases) == seen
