"""Outputs that put unlike values together, as a detector's boxes and scores, lose none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import observed
from onnx_tucker.errors import PromiseError
from onnx_tucker.job import prepare, silent
from onnx_tucker.pipeline import compress
from onnx_tucker.report.table import table
from onnx_tucker.runtime.session import Machine
from onnx_tucker.settings import Settings
from tests.helpers import low_rank, model, relative, run, view_of

X = np.random.default_rng(0).standard_normal((60, 16, 8, 8)).astype(np.float32)


def detector(size: float = 200.0) -> onnx.ModelProto:
    """Boxes of some size and scores from branches of their own, as one output in another shape."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "trunk"], ["t"], "trunk", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["t"], ["h"]),
        helper.make_node("Conv", ["h", "regression"], ["r"], "regression", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["r", "size"], ["boxes"]),
        helper.make_node("Conv", ["h", "classes"], ["c"], "classes", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["c"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "flat"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["y"], perm=[0, 2, 1]),
    ]
    kernels = {name: low_rank(rng, 4, 16, 16, 3, 3) for name in ("trunk", "regression", "classes")}
    tensors = {**kernels, "size": np.array(size, np.float32), "flat": np.array([0, 32, -1])}
    return model(nodes, tensors, {"x": ["n", 16, 8, 8]}, {"y": 3})


def parts_of(made: onnx.ModelProto) -> dict[str, list[str]]:
    job = prepare(made, Settings(), silent)
    return observed.parts(view_of(job), Path(), Machine(1), {"x": X[:4]})


def test_parts_are_told_apart_where_they_are_unlike() -> None:
    assert parts_of(detector()) == {"y": ["boxes", "scores"]}
    assert parts_of(detector(1.0)) == {}


def test_scores_are_kept_beside_boxes() -> None:
    made = detector()
    result = compress(made, ranks="auto", budget="flops:0.5", data={"x": X}, benchmark=False)
    [before], [after] = run(made, x=X), run(result.model, x=X)
    boxes, scores = relative(before[..., :16], after[..., :16]), relative(before[..., 16:], after[..., 16:])
    assert boxes < 0.02
    assert scores < 0.02  # .2 where the error is relative to both
    assert result.report.fidelity is not None
    [output] = result.report.fidelity.outputs
    assert [part.name for part in output.parts] == ["boxes", "scores"]
    assert "of what it puts together: boxes 0." in "\n".join(table(result.report).notes)


def test_a_promise_is_of_the_parts_too() -> None:
    options = {"ranks": {"classes": (1, 1), "*": "full"}, "data": {"x": X}, "benchmark": False}
    result = compress(detector(), **options)
    assert result.report.fidelity is not None
    [output] = result.report.fidelity.outputs
    assert output.relative_l2 is not None
    assert output.relative_l2 < 0.01
    with pytest.raises(PromiseError, match="part scores of output y on the data is"):
        compress(detector(), **options, max_error=0.01)
