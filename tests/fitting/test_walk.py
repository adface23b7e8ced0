"""Values of all nodes in one run of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_tucker import prepare as beginning
from onnx_tucker.factor import METHODS
from onnx_tucker.fitting import walk
from onnx_tucker.fitting.factorise import factorise
from onnx_tucker.fitting.walk import Walk
from onnx_tucker.graph.segment import probe
from onnx_tucker.job import Job, silent
from onnx_tucker.prepare import prepare
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate
from tests.helpers import model, relative, run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((10, 4)).astype(np.float32)


def branched() -> onnx.ModelProto:
    """A residual block, a value that is needed much later, and a body that sees values from outside."""
    rng, bodies = np.random.default_rng(1), []
    for op, name in (("Neg", "b"), ("Abs", "c")):
        out = helper.make_tensor_value_info(f"{op}_out", 1, None)
        bodies.append(helper.make_graph([helper.make_node(op, [name], [out.name])], op, [], [out]))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"], "second"),
        helper.make_node("Add", ["c", "x"], ["d"]),
        helper.make_node("ReduceSum", ["d"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["e"], then_branch=bodies[0], else_branch=bodies[1]),
        helper.make_node("Add", ["e", "a"], ["y"]),
    ]
    tensors = {
        "w": rng.standard_normal((4, 4)).astype(np.float32),
        "v": rng.standard_normal((4, 4)).astype(np.float32),
        "zero": np.zeros((), np.float32),
    }
    return model(nodes, tensors, {"x": ["n", 4]}, {"y": 2})


NAMES = ("x", "a", "b", "c", "d", "e", "y")


def expected() -> dict[str, Any]:
    made = branched()
    for name in NAMES[1:-1]:
        made.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return dict(zip(("y", *NAMES[1:-1]), run(made, x=X), strict=True)) | {"x": X}


def job() -> Job:
    return prepare_(branched())


def prepare_(made: onnx.ModelProto) -> Job:
    return prepare(made, Settings(data={"x": X}), silent)


@pytest.mark.parametrize("held", [walk.HELD, 100, 0])
@pytest.mark.parametrize("order", [NAMES, NAMES[::-1], ("c", "a", "y", "x", "b")])
def test_values_are_those_of_the_model(held: int, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """In any order, however little may be held."""
    monkeypatch.setattr(walk, "HELD", held)
    exact, walked = expected(), Walk(job(), [{"x": X}, {"x": X[:3]}])
    for name in order:
        first, second = (values[name] for values in walked.read([name]))
        assert np.allclose(first, exact[name], atol=1e-6)
        assert len(second) == 3


def test_a_value_that_callers_may_give_is_the_one_that_is_stored() -> None:
    made = model([helper.make_node("Add", ["x", "d"], ["y"])], {"d": X[0]}, {"x": ["n", 4], "d": [4]}, {"y": 2})
    [values] = Walk(prepare_(made), [{"x": X}]).read(["d", "y"])
    assert np.array_equal(values["d"], X[0])
    assert np.allclose(values["y"], X + X[0])


def test_every_node_is_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    build = walk.model_of

    def spy(made: Any, nodes: Any, *rest: Any) -> bytes:
        ran.extend(node.output[0] for node in nodes)
        return build(made, nodes, *rest)

    monkeypatch.setattr(walk, "model_of", spy)
    walked = Walk(job(), [{"x": X}])
    for names in (["x", "a"], ["b", "c"], ["d"], ["y"]):
        list(walked.read(names))
    assert sorted(ran) == sorted(output for node in branched().graph.node for output in node.output)


def test_only_feeds_without_room_start_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "HELD", X.nbytes)
    taken: list[tuple[set[str], int]] = []
    run_ = Walk._run

    def spy(session: Any, feed: Any, *rest: Any) -> Any:
        taken.extend((set(feed), len(value)) for value in list(feed.values())[:1])
        return run_(session, feed, *rest)

    monkeypatch.setattr(Walk, "_run", staticmethod(spy))
    walked = Walk(job(), [{"x": X}, {"x": X[:9]}])
    for names in (["a"], ["b"]):
        list(walked.read(names))
    assert taken == [({"x"}, 10), ({"x"}, 9), ({"a"}, 10), ({"x"}, 9)]


def test_it_starts_again_if_it_was_left_midway() -> None:
    exact, walked = expected(), Walk(job(), [{"x": X}, {"x": X}])
    next(iter(walked.read(["c"])))
    assert all(np.allclose(values["d"], exact["d"], atol=1e-6) for values in walked.read(["d"]))


def test_bytes_of_external_data_are_found(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(branched(), path, save_as_external_data=True, size_threshold=0)
    made = prepare(path, Settings(data={"x": X}), silent)
    assert all(np.allclose(v["y"], expected()["y"], atol=1e-6) for v in Walk(made, [{"x": X}]).read(["y"]))


def on_frames() -> Job:
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 6),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["y"], "second", strides=[1, 2, 2]),
    ]
    weights = {name: rng.standard_normal((6, 6, 3, 3, 3)).astype(np.float32) for name in "wv"}
    made = model(nodes, weights, {"x": ["n", 6, 8, 9, 9]}, {"y": 5})
    feed = {"x": rng.standard_normal((6, 6, 8, 9, 9)).astype(np.float32)}
    return prepare(made, Settings(data=feed), silent)


def test_convolutions_are_computed_on_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values have their own layout all the same, before and after a node is replaced."""
    kernels = []
    build = walk.model_of

    def spy(made: Any, nodes: Any, *rest: Any) -> bytes:
        kernels.extend(onnx.helper.get_node_attr_value(n, "kernel_shape") for n in nodes if n.op_type == "Conv")
        return build(made, nodes, *rest)

    monkeypatch.setattr(walk, "model_of", spy)
    made = on_frames()
    assert made.inputs is not None
    feed = made.inputs.fit.feeds[0]
    exact = probe(made.model, ["a", "y"])
    expected_ = dict(zip("ay", made.stopwatch.machine.session(exact).run(None, dict(feed)), strict=True))
    first = made.found[0]
    candidate = Candidate("tucker1_out", (6,), METHODS["tucker1_out"].stages(first.site.stage, (6,)), 0.0)
    chain = METHODS["tucker1_out"].chain(first.site.read(), first.site.stage, (6,))
    for replaced in (False, True):
        walked = Walk(made, [feed])
        if replaced:
            walked.replace(first, candidate, chain)
        for name in "ay":
            [values] = walked.read([name])
            assert relative(expected_[name], values[name]) <= 1e-5
    assert len(kernels) == 5
    assert all(len(kernel) == 2 for kernel in kernels)


@pytest.mark.parametrize("names", [NAMES[1:], ("x", "d"), ("w", "y")])
def test_a_model_gives_values_inputs_and_weights(names: tuple[str, ...]) -> None:
    exact, made = expected() | {"w": onnx.numpy_helper.to_array(branched().graph.initializer[0])}, job()
    session = made.stopwatch.machine.session(Walk(made, [{"x": X}]).model(names))
    for name, value in zip(names, session.run(None, {"x": X[:7]}), strict=True):
        assert np.allclose(value, exact[name][: len(value)], atol=1e-6), name


def test_what_nodes_are_to_give_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second rough fit of the same nodes reads only what the factorised nodes before them give."""
    read, counted = Walk.read, list[Walk]()

    def spy(walked: Walk, names: Any) -> Any:
        counted.append(walked)
        return read(walked, names)

    monkeypatch.setattr(Walk, "read", spy)
    monkeypatch.setattr(beginning, "CHAIN_BYTES", 0)  # or nothing would be fitted twice
    made = prepare_(branched())
    stages = METHODS["svd"].stages(made.found[0].site.stage, (2,))
    planned = {found.label: Candidate("svd", (2,), stages, 0.0) for found in made.found}
    first = factorise(made, planned, "outputs", rough=True)
    assert len(counted) == 2 * len(planned)
    second = factorise(made, planned, "outputs", rough=True)
    assert len(counted) == 3 * len(planned)
    assert first.model == second.model
    monkeypatch.setattr(beginning, "WANTED_BYTES", 0)
    unheld = factorise(prepare_(branched()), planned, "outputs", rough=True)
    assert unheld.model == first.model
