"""What chains can be made from."""

from __future__ import annotations

import pytest
from onnx import helper

from onnx_tucker import calibrate
from onnx_tucker.factor import METHODS
from onnx_tucker.job import prepare, silent
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from tests.helpers import model
from tests.test_trial import noise


@pytest.mark.parametrize(("samples", "told"), [(12, True), (50, False), (100, True)])
def test_what_counts_is_fitted_to_where_other_samples_or_many_tell(samples: int, told: bool) -> None:
    """A fifth of them is kept for checks."""
    weight = noise(20, 20)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "conv"), helper.make_node("MatMul", ["h", "v"], ["y"])]
    made = model(nodes, {"w": weight, "v": noise(20, 8)}, {"x": ["n", 20]}, {"y": 2})
    job = prepare(made, Settings(data={"x": noise(samples, 20)}), silent)
    found = job.found[0]
    stages = METHODS["svd"].stages(found.site.stage, (4,))
    assert ("influence" in calibrate.bases(job, {found.place.label: Candidate("svd", (4,), stages, 0.0)})) == told
