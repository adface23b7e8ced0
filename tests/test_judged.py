"""Outputs that put unlike values together, as a detector's boxes and scores, lose none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnx_tucker.errors import PromiseError
from onnx_tucker.job import silent
from onnx_tucker.pipeline import compress
from onnx_tucker.prepare import prepare
from onnx_tucker.report.table import table
from onnx_tucker.settings import Settings
from onnx_tucker.types import Choice, Plan
from tests.helpers import low_rank, model, relative, run

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


def parts_of(made: onnx.ModelProto) -> Mapping[str, Sequence[str]]:
    judged = prepare(made, Settings(data={"x": X}), silent).judged
    assert judged is not None
    return judged.parts


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
    assert "of what it follows from: boxes 0." in "\n".join(table(result.report).notes)


def test_a_promise_is_of_the_parts_too() -> None:
    options = {"ranks": {"classes": (1, 1), "*": "full"}, "data": {"x": X}, "benchmark": False}
    result = compress(detector(), **options)
    assert result.report.fidelity is not None
    [output] = result.report.fidelity.outputs
    assert output.relative_l2 is not None
    assert output.relative_l2 < 0.01
    with pytest.raises(PromiseError, match="part scores of output y on the data is"):
        compress(detector(), **options, max_error=0.01)


def classifier(scores: str, *, masked: float = 0.0) -> onnx.ModelProto:
    """Of what is certain of all that it sees, with an output of scores or of probabilities."""
    rng = np.random.default_rng(1)
    tensors = {name: low_rank(rng, 6, 24, out) for name, out in (("w", 24), ("v", 24), ("u", 5))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["g"], "second"),
        helper.make_node("Relu", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "u"], ["s"], "third"),
        helper.make_node("Add", ["s", "mask"], [scores]),
    ]
    if scores != "y":
        nodes.append(helper.make_node("Softmax", [scores], ["y"]))
    return model(nodes, {**tensors, "mask": np.array([0, 0, 0, 0, masked], np.float32)}, {"x": ["n", 24]}, {"y": 2})


def test_probabilities_are_judged_by_the_scores_that_they_are_made_of_too() -> None:
    data = {"x": 9 * np.random.default_rng(2).standard_normal((60, 24)).astype(np.float32)}
    judged = prepare(classifier("scores"), Settings(data=data), silent).judged
    assert judged is not None
    assert judged.names == ["y", "scores"]
    result = compress(classifier("scores"), ranks="auto", budget="flops:0.3", data=data, benchmark=False)
    assert result.report.fidelity is not None
    [output] = result.report.fidelity.outputs
    itself, scores = output.parts
    assert itself.relative_l2 == output.relative_l2
    assert f"(of what it follows from: scores {scores.relative_l2:.2g})" in "\n".join(table(result.report).notes)


def test_what_is_far_off_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    data = {"x": 9 * np.random.default_rng(2).standard_normal((60, 24)).astype(np.float32)}
    compress(classifier("scores"), ranks=3, data=data, benchmark=False, keep_slower=True)
    assert caplog.text.count("of its size") == 1


def test_what_is_promised_of_probabilities_is_not_of_scores() -> None:
    made, x = classifier("scores"), 30 * np.random.default_rng(2).standard_normal((60, 24)).astype(np.float32)
    options = {"ranks": 5, "data": {"x": x}, "benchmark": False, "keep_slower": True}
    free = compress(made, **options)
    assert free.report.fidelity is not None
    [output] = free.report.fidelity.outputs
    _, scores = output.parts
    assert output.relative_l2 is not None
    assert scores.relative_l2 is not None
    most = 1.01 * max(output.relative_l2, relative(run(made, x=x)[0], run(free.model, x=x)[0]))
    assert scores.relative_l2 > 1.2 * most
    assert compress(made, **options, max_error=most).plan == free.plan


@pytest.mark.parametrize("masked", [-np.inf, -1e4])
def test_scores_that_rule_out_a_class_judge_nothing(masked: float) -> None:
    data = {"x": np.random.default_rng(2).standard_normal((60, 24)).astype(np.float32)}
    judged = prepare(classifier("scores", masked=masked), Settings(data=data), silent).judged
    assert judged is not None
    assert judged.names == ["y"]


@pytest.mark.parametrize(
    ("ends", "parts"),
    [
        ([helper.make_node("Softmax", ["r"], ["y"], axis=1)], ["y", "r"]),
        (
            [
                helper.make_node("Exp", ["r"], ["sizes"]),
                helper.make_node("Sigmoid", ["r"], ["scores"]),
                helper.make_node("Concat", ["sizes", "scores"], ["y"], axis=1),
            ],
            ["sizes", "scores"],
        ),
    ],
    ids=["probabilities", "parts"],
)
def test_what_models_are_judged_by_is_seen_on_frames(ends: list[onnx.NodeProto], parts: list[str]) -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("Conv", ["x", "w"], ["r"], "conv", pads=[1] * 6), *ends]
    kernel = 0.3 * rng.standard_normal((4, 3, 3, 3, 3))
    made = model(nodes, {"w": kernel.astype(np.float32)}, {"x": [1, 3, 4, 5, 5]}, {"y": 5})
    frames = Choice("conv", "Conv", (4, 3, 3, 3, 3), "lowered", "", None, "frames_out", None)
    x = rng.standard_normal((10, 3, 4, 5, 5)).astype(np.float32)
    result = compress(made, plan=Plan((frames,)), data={"x": x}, benchmark=False)
    assert result.plan.choices == (frames,)
    assert result.report.fidelity is not None
    [output] = result.report.fidelity.outputs
    assert [part.name for part in output.parts] == parts
    assert all(part.relative_l2 is not None and part.relative_l2 < 1e-5 for part in output.parts)


def suppressed() -> onnx.ModelProto:
    """The same with what is left of the boxes, which are as many as there are, and with classes by number."""
    made = detector()
    nodes = [
        helper.make_node("Reshape", ["boxes", "corners"], ["where"]),
        helper.make_node("Reshape", ["scores", "each"], ["events"]),
        helper.make_node("NonMaxSuppression", ["where", "events", "most", "overlap", "least"], ["kept"]),
        helper.make_node("ArgMax", ["scores"], ["class"], axis=1),
    ]
    made.graph.node.extend(nodes)
    tensors = {"corners": [0, -1, 4], "each": [0, 4, -1], "most": [20], "overlap": [0.5], "least": [0.6]}
    for name, values in tensors.items():
        array = np.array(values, np.int64 if isinstance(values[0], int) else np.float32)
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    del made.graph.output[:]
    made.graph.output.extend(
        helper.make_tensor_value_info(name, onnx.TensorProto.INT64, shape)
        for name, shape in (("kept", ["k", 3]), ("class", ["n", 1, 8, 8]))
    )
    onnx.checker.check_model(made)
    return made


def test_layers_of_bodies_may_be_behind_a_choice() -> None:
    made = suppressed()
    body = helper.make_graph(
        [helper.make_node("Conv", ["x", "trunk"], ["inner"], kernel_shape=[3, 3])],
        "body",
        [],
        [helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, None)],
    )
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["same"])], "other", [], [])
    other.output.append(helper.make_tensor_value_info("same", onnx.TensorProto.FLOAT, None))
    made.graph.node.append(helper.make_node("If", ["yes"], ["further"], then_branch=body, else_branch=other))
    made.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    made.graph.output.append(helper.make_tensor_value_info("further", onnx.TensorProto.FLOAT, None))
    assert parts_of(made) == {}


def test_what_is_chosen_is_judged_by_what_it_is_chosen_from() -> None:
    made = suppressed()
    assert parts_of(made) == {"class": ["scores"], "kept": ["where", "events"]}
    result = compress(made, ranks="auto", budget="flops:0.5", data={"x": X}, benchmark=False, max_error=0.02)
    assert result.report.fidelity is not None
    kept, numbers = result.report.fidelity.outputs
    assert numbers.relative_l2 is not None
    assert numbers.relative_l2 > 0.02
    assert [part.relative_l2 < 0.02 for part in kept.parts if part.relative_l2 is not None] == [True, True]
    [classes], [found] = (run(one, x=X[:20])[1:] for one in (made, result.model))
    assert np.mean(classes == found) > 0.9


def test_parts_that_can_judge_nothing_are_left_out() -> None:
    """What is zero on some inputs is judged; what is always zero, or rounding, or not finite, is not."""
    made = detector()
    end = next(i for i, node in enumerate(made.graph.node) if node.op_type == "Concat")
    nodes = [
        helper.make_node("ReduceMax", ["x", "within"], ["high"], keepdims=1),
        helper.make_node("Sub", ["high", "most"], ["over"]),
        helper.make_node("Relu", ["over"], ["gate"]),
        helper.make_node("Mul", ["c", "gate"], ["some"]),
        helper.make_node("Mul", ["c", "zero"], ["never"]),
        helper.make_node("Mul", ["c", "tiny"], ["noise"]),
        helper.make_node("Log", ["c"], ["nan"]),
    ]
    later = [
        helper.make_node("Concat", [*made.graph.node[end].input, "some", "never", "noise", "nan"], ["both"], axis=1)
    ]
    rest = [*made.graph.node][end + 1 :]
    del made.graph.node[end:]
    made.graph.node.extend([*nodes, *later, *rest])
    for name, value in (("most", 6.0), ("zero", 0.0), ("tiny", 1e-9)):
        made.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    made.graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 3]), "within"))
    flat = next(tensor for tensor in made.graph.initializer if tensor.name == "flat")
    flat.CopyFrom(numpy_helper.from_array(np.array([0, 96, -1]), "flat"))
    x = np.where(np.arange(len(X))[:, None, None, None] % 4 == 3, 2 * X, X / 2)
    judged = prepare(made, Settings(data={"x": x.astype(np.float32)}), silent).judged
    assert judged is not None
    assert [*judged.parts["y"]] == ["boxes", "scores", "some"]
