"""Lowering from end to end: chosen by measurement, lossless, replayed by its plan, and left out when asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress, inspect
from onnx_tucker.errors import PlanError
from onnx_tucker.graph import find, provenance
from onnx_tucker.runtime.timing import Step, Stopwatch, Timing
from onnx_tucker.types import Plan
from tests.helpers import Array, factorised, model, relative, run

SHAPE = (8, 8, 24, 24)


def noise(*shape: int) -> Array:
    return np.random.default_rng([*shape]).standard_normal(shape).astype(np.float32)


def video() -> onnx.ModelProto:
    """Two 3D convolutions with a pool between, on clips of a fixed size."""
    nodes = [
        helper.make_node("Conv", ["x", "a.w", "a.b"], ["a"], "a", pads=[1, 2, 2] * 2),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        helper.make_node("Conv", ["p", "c.w", "c.b"], ["c"], "c", pads=[1] * 6),
        helper.make_node("GlobalAveragePool", ["c"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["y"], "flatten"),
    ]
    tensors = {
        "a.w": noise(16, 8, 3, 5, 5) / np.float32(20),
        "a.b": noise(16),
        "c.w": noise(32, 16, 3, 3, 3) / np.float32(20),
        "c.b": noise(32),
    }
    return model(nodes, tensors, {"x": ["n", *SHAPE]}, {"y": 2})


X = noise(2, *SHAPE)


@pytest.fixture
def frames_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every model with a 2D convolution measure twice as fast, whatever machine this is."""

    def ms(content: bytes) -> float:
        made = onnx.load_from_string(content)
        kernels = [len(a.ints) for n in made.graph.node for a in n.attribute if a.name == "kernel_shape"]
        return 1.0 if 2 in kernels else 2.0 if any(n.op_type == "Conv" for n in made.graph.node) else 0.01

    def compare(self: Stopwatch, models: list[bytes], *args: object) -> list[Timing]:
        times = [ms(content) for content in models]
        return [Timing(t, 0.0, times[0] / t, (times[0] / t, times[0] / t)) for t in times]

    monkeypatch.setattr(Stopwatch, "compare", compare)
    monkeypatch.setattr(Stopwatch, "sift", lambda self, models, feed: [ms(content) for content in models])
    monkeypatch.setattr(Stopwatch, "profile", lambda *args: [])


@pytest.mark.usefixtures("frames_win")
def test_full_rank_is_a_lossless_rewrite_with_two_transposes_at_most() -> None:
    made = video()
    result = compress(made, ranks="full")
    assert [(n.name, n.status) for n in result.report.nodes] == [("a", "lowered"), ("c", "lowered")]
    assert all(n.form and n.method is None and n.speedup == 2 for n in result.report.nodes)
    assert relative(run(made, x=X)[0], run(result.model, x=X)[0]) < 1e-5
    assert not {"MaxPool", "Relu"} & {n.op_type for n in result.model.graph.node if "/" not in n.output[0]}
    turned = [n for n in result.model.graph.node if n.op_type == "Transpose" and n.attribute[0].ints == [0, 2, 1, 3, 4]]
    assert len(turned) == 1
    onnx.checker.check_model(result.model, full_check=True)
    assert made == video()


@pytest.mark.usefixtures("frames_win")
def test_factorised_layers_are_lowered_too_and_plans_replay(tmp_path: Path) -> None:
    first = compress(video(), tmp_path / "a.onnx", ranks="4", plan_out=tmp_path / "p.json")
    assert {(n.status, n.form == "direct") for n in first.report.nodes} == {("factorized", False)}
    again = compress(video(), tmp_path / "b.onnx", plan=tmp_path / "p.json", benchmark=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert again.plan == first.plan
    textbook = compress(video(), ranks="4", lower=False)
    assert {n.form for n in textbook.report.nodes} == {"direct"}
    plan = Plan.from_json(first.plan.to_json())
    assert compress(video(), plan=plan, benchmark=False).model == first.model


@pytest.mark.usefixtures("frames_win")
def test_a_node_that_is_lowered_says_whether_it_has_other_weights() -> None:
    data = {"x": np.concatenate([X] * 4) + noise(8, *SHAPE)}
    for a, refitted in ((4, True), ("full", False)):
        _, c = compress(video(), ranks={"a": a, "c": "full"}, data=data).report.nodes
        assert c.status == "lowered"
        assert ("weights refitted" in c.reason) is refitted
        assert (c.error.weight > 1e-3) is refitted


@pytest.mark.usefixtures("frames_win")
def test_what_is_left_out_stays() -> None:
    result = compress(video(), ranks="full", exclude=["a"])
    assert [n.status for n in result.report.nodes] == ["kept", "lowered"]
    assert result.model.graph.node[0] == video().graph.node[0]
    assert {n.status for n in compress(video(), ranks="full", lower=False).report.nodes} == {"kept"}
    assert {n.status for n in compress(video(), ranks="full", benchmark=False).report.nodes} == {"kept"}


@pytest.mark.usefixtures("frames_win")
def test_a_lowered_model_is_left_alone_by_a_second_run() -> None:
    once = compress(video(), ranks="full").model
    assert provenance.chains(once).nodes == {"a", "c"}
    twice = compress(once, ranks="full")
    assert twice.model == once
    assert not [n for n in twice.report.nodes if n.status in ("lowered", "factorized")]


def separated() -> onnx.ModelProto:
    """As in mobile video networks: a pointwise convolution, a depthwise one of frames, and one more pointwise."""
    nodes = [
        helper.make_node("Conv", ["x", "a.w"], ["a"], "a"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "d.w", "d.b"], ["d"], "d", pads=[1] * 6, group=24),
        helper.make_node("HardSwish", ["d"], ["h"]),
        helper.make_node("Conv", ["h", "c.w"], ["c"], "c"),
        helper.make_node("GlobalAveragePool", ["c"], ["y"]),
    ]
    tensors = {
        "a.w": noise(24, 8, 1, 1, 1),
        "d.w": noise(24, 1, 3, 3, 3),
        "d.b": noise(24),
        "c.w": noise(16, 24, 1, 1, 1) / np.float32(5),
    }
    return model(nodes, tensors, {"x": ["n", *SHAPE]}, {"y": 5})


@pytest.mark.usefixtures("frames_win")
def test_what_cannot_be_factorised_is_lowered_all_the_same(tmp_path: Path) -> None:
    made, data = separated(), {"x": noise(40, *SHAPE)}
    result = compress(made, tmp_path / "a.onnx", ranks={"a": 4, "c": 4}, data=data, plan_out=tmp_path / "p.json")
    a, d, c = result.report.nodes
    assert (a.method, c.method, d.method, d.status) == ("svd", "svd", None, "lowered")
    assert "depthwise" in d.reason
    assert d.error.weight == 0
    assert provenance.recipes(result.model)["d"].method is None
    again = compress(made, tmp_path / "b.onnx", plan=tmp_path / "p.json", data=data)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert again.plan == result.plan
    assert {n.status for n in compress(result.model, ranks="full").report.nodes} <= {"skipped", "kept"}
    budget = compress(made, ranks="auto", budget="params:0.8", data=data, keep_slower=True).report.nodes
    assert [n.status for n in budget if n.name == "d"] == ["lowered"]


def test_trained_weights_are_not_called_refitted() -> None:
    pytest.importorskip("torch")
    choices = compress(video(), ranks={"a": "full", "c": 8}, keep_slower=True).plan.choices
    plan = Plan((replace(choices[0], status="lowered", form="frames_in"), choices[1]), "weights")
    data = {"x": noise(10, *SHAPE)}
    for epochs in (0, 3):
        a, _ = compress(video(), plan=plan, data=data, finetune_epochs=epochs).report.nodes
        assert "refitted" not in a.reason


@pytest.mark.usefixtures("frames_win")
def test_and_left_alone_if_that_is_asked_for() -> None:
    made = separated()
    kept = {"exclude": "d"}, {"include": ["a", "c"]}, {"ranks": {"d": "keep", "*": "full"}}, {"lower": False}
    for options in kept:
        _, d, _ = compress(made, **{"ranks": "full", **options}).report.nodes
        assert (d.status, "depthwise" in d.reason) == ("skipped", True)
    assert [n.status for n in compress(made, ranks="full").report.nodes] == ["lowered"] * 3
    plan = compress(made, ranks="full").plan
    wrong = replace(
        plan, choices=(*plan.choices[:1], replace(plan.choices[1], method="svd", ranks=(1,)), plan.choices[2])
    )
    with pytest.raises(PlanError, match=r"The plan changes 'd', but it cannot be: depthwise"):
        compress(made, plan=wrong)


def shared(frames: int) -> onnx.ModelProto:
    """Two convolutions with one weight, on 8 frames and on another number of them."""
    nodes = [helper.make_node("Conv", [x, "w"], [y], y, pads=[1] * 6) for x, y in (("x", "a"), ("z", "c"))]
    inputs = {"x": ["n", 8, 8, 12, 12], "z": ["n", 8, frames, 12, 12]}
    return model(nodes, {"w": noise(16, 8, 3, 3, 3)}, inputs, {"a": 5, "c": 5})


@pytest.mark.usefixtures("frames_win")
@pytest.mark.parametrize(("frames", "status"), [(8, "lowered"), (1, "kept")])
def test_a_weight_is_shared_on_frames_by_convolutions_of_one_geometry_only(frames: int, status: str) -> None:
    made = shared(frames)
    result = compress(made, ranks="full")
    assert {n.status for n in result.report.nodes} == {status}
    feed = {"x": noise(2, 8, 8, 12, 12), "z": noise(2, 8, frames, 12, 12)}
    for before, after in zip(run(made, **feed), run(result.model, **feed), strict=True):
        assert relative(before, after) < 1e-5
    plan = compress(shared(8), ranks="full").plan
    if status == "kept":
        with pytest.raises(PlanError, match="share a weight"):
            compress(made, plan=plan, benchmark=False)


@pytest.mark.usefixtures("frames_win")
def test_a_node_that_is_slower_on_frames_with_its_transposes_falls_back_to_a_chain_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = Stopwatch.compare

    def compare(self: Stopwatch, models: list[bytes], *args: object) -> list[Timing]:
        times = fast(self, models, *args)  # type: ignore[arg-type]
        turned = [b"Transpose" in content for content in models]
        return [replace(t, speedup=0.5) if slow else t for t, slow in zip(times, turned, strict=True)]

    monkeypatch.setattr(Stopwatch, "compare", compare)
    nodes = compress(video(), ranks="4", min_speedup=0.9).report.nodes
    assert {n.form for n in nodes} == {"direct"}


@pytest.mark.usefixtures("frames_win")
def test_transforms_are_no_weights() -> None:
    once = compress(video(), ranks="full").model
    report = inspect(once)
    weights = compress(video(), dry_run=True, benchmark=False).report.totals.params.before
    assert report.totals.params.before == weights == 16 * 8 * 75 + 32 * 16 * 27
    again = compress(once, ranks="ratio:0.1", refactorize=True, keep_slower=True)
    assert again.model == once
    assert {n.reason for n in again.report.nodes} == {find.LOWERED}


def test_a_weight_that_several_convolutions_come_from_counts_once() -> None:
    plan = compress(video(), ranks="4", lower=False, benchmark=False).plan.to_json()
    split = compress(video(), plan=Plan.from_json(plan.replace('"direct"', '"tiles2_split"')), benchmark=False)
    assert inspect(split.model).totals.params.before == split.report.totals.params.after


def test_inspect_shows_layers_as_they_are() -> None:
    assert {n.status for n in inspect(video()).nodes} == {"kept"}


def test_a_line_may_be_of_no_sample() -> None:
    weight = np.ones((8, 16, 3), np.float32)
    for opset in (11, 17):
        made = model(
            [helper.make_node("Conv", ["x", "w"], ["y"], "conv")], {"w": weight}, {"x": ["n", 16, 9]}, {"y": 3}
        )
        made.opset_import[0].version = opset
        lowered = factorised(made, {"conv": (None, None, "plane")})
        assert lowered.graph.node != made.graph.node
        for count in (0, 2):
            [expected], [found] = (run(one, x=np.ones((count, 16, 9), np.float32)) for one in (made, lowered))
            assert found.shape == expected.shape
            assert np.array_equal(found, expected)


def test_a_form_that_does_not_fit_is_refused() -> None:
    text = compress(video(), ranks="4", lower=False, benchmark=False).plan.to_json()
    for form, words in (("tiles9", "unknown"), ("plane", "does not fit")):
        with pytest.raises(PlanError, match=words):
            compress(video(), plan=Plan.from_json(text.replace('"direct"', f'"{form}"')), benchmark=False)


def test_what_is_slower_within_the_model_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone both chains are faster, and so is the model; within it, that of `a` is slower."""

    def compare(self: Stopwatch, models: list[bytes], *args: object) -> list[Timing]:
        return [Timing(1.0, 0.0, 1.0, (1.0, 1.0))] + [Timing(0.5, 0.0, 2.0, (2.0, 2.0))] * (len(models) - 1)

    def profile(self: Stopwatch, content: bytes, *args: object) -> list[Step]:
        convs = [n for n in onnx.load_from_string(content).graph.node if n.op_type == "Conv"]
        slow = 5.0 if len(convs) > 2 and convs[0].output[0] != "a" else 0.1
        return [Step(n.name, n.op_type, (0.1 if len(convs) == 2 else 0.01) if i else slow) for i, n in enumerate(convs)]

    monkeypatch.setattr(Stopwatch, "compare", compare)
    monkeypatch.setattr(Stopwatch, "profile", profile)
    result = compress(video(), ranks="4", lower=False)
    assert [n.status for n in result.report.nodes] == ["kept", "factorized"]
    assert result.report.nodes[0].reason == "measured x0.02 within the model"
