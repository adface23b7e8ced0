"""What was promised of a model's outputs."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from onnx_tucker import compare, compress
from onnx_tucker.errors import DataError, PromiseError, TuckerError
from onnx_tucker.fitting.factorise import Factorised
from onnx_tucker.job import silent
from onnx_tucker.prepare import prepare
from onnx_tucker.promises import Promises, Verdict
from onnx_tucker.runtime.batches import turns
from onnx_tucker.runtime.inputs import HELD_OUT
from onnx_tucker.settings import Settings
from onnx_tucker.types import Closeness
from tests.helpers import model, run


def test_an_error_holds_on_the_samples_kept_apart_and_on_all() -> None:
    """All but the samples kept apart have something that a chain of rank one loses."""
    rng, count = np.random.default_rng(0), 40
    weight = rng.standard_normal((12, 12)).astype(np.float32)
    made = model([helper.make_node("Gemm", ["x", "w"], ["y"], "fc")], {"w": weight}, {"x": ["n", 12]}, {"y": 2})
    kept = turns(count, HELD_OUT, np.random.default_rng(0)) == 0
    x = 5 * rng.standard_normal((count, 1)) @ rng.standard_normal((1, 12))
    x[~kept] += 0.5 * rng.standard_normal((count - kept.sum(), 12))
    data = {"x": x.astype(np.float32)}
    free = compress(made, ranks=1, data=data, benchmark=False)
    assert free.report.fidelity is not None
    apart = free.report.fidelity.outputs[0].relative_l2
    [of_all] = compare(made, free.model, data=data, benchmark=False).outputs
    assert apart is not None
    assert of_all.relative_l2 is not None
    assert 1.5 * apart < of_all.relative_l2
    between = (apart + of_all.relative_l2) / 2
    with pytest.raises(PromiseError, match=f"on the data is {of_all.relative_l2:.3g}, above"):
        compress(made, ranks=1, data=data, benchmark=False, max_error=between)
    held = compress(made, ranks=1, data=data, benchmark=False, max_error=1.01 * of_all.relative_l2)
    np.testing.assert_array_equal(run(held.model, **data)[0], run(free.model, **data)[0])


def scored() -> Promises:
    """Of a score that may fall by little."""
    made = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 12]}, {"y": 2})
    settings = Settings(benchmark=False, eval=lambda run: 1.0, max_drop=0.04)
    return Promises(prepare(made, settings, silent), lambda run: 1.0)


@pytest.mark.parametrize("unknown", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_none_does_not_make_others_less_lucky(unknown: float) -> None:
    promises = scored()

    def verdict(error: float, fall: float) -> Verdict:
        return Verdict([Closeness("y", error, error, 1.0, None, None)], 1 - fall, fall)

    others = [verdict(0.5, unknown), verdict(0.5, 0.4)]
    assert promises.lucky([*others, verdict(0.4, 0.01)])
    assert not promises.lucky([*others[:1], verdict(0.4, 0.01)])


def test_a_score_is_not_lucky_where_nothing_is_known_of_the_outputs() -> None:
    unknown = Verdict([Closeness("y", None, None, None, None, None)], 0.99, 0.01)
    assert not scored().lucky([unknown])


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (helper.make_node("Cast", ["r"], ["y"], to=TensorProto.DOUBLE), TensorProto.DOUBLE),
        (helper.make_node("Transpose", ["r"], ["y"]), TensorProto.FLOAT),
    ],
    ids=["type", "shape"],
)
def test_outputs_of_another_shape_or_type_are_a_fault(change: NodeProto, kind: int) -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 12]}, {"y": 2})
    other = model([helper.make_node("Relu", ["x"], ["r"]), change], {}, {"x": ["n", 12]}, {"y": 2})
    other.graph.output[0].type.tensor_type.elem_type = kind
    x = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
    promises = Promises(prepare(made, Settings(data=x, benchmark=False), silent), None)
    with pytest.raises(TuckerError, match="The output y of the result has another shape or type"):
        promises.verify(Factorised(other, {}, {}, {}))


@pytest.mark.parametrize(("loud", "told"), [(1.0, False), (30.0, True)])
def test_an_error_that_few_samples_make_is_said_to_be_one(
    loud: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((12, 12)).astype(np.float32)
    made = model([helper.make_node("Gemm", ["x", "w"], ["y"], "fc")], {"w": weight}, {"x": ["n", 12]}, {"y": 2})
    x = rng.standard_normal((60, 12)).astype(np.float32)
    x[::12] *= loud
    kept = turns(60, HELD_OUT, np.random.default_rng(0)) == 0
    x[np.flatnonzero(kept)[0]] *= loud
    compress(made, ranks=4, data={"x": x}, benchmark=False)
    assert ("of the 12 samples kept for checks" in caplog.text.lower()) is told


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_not_finite_is_found_on_all_samples(kept: bool) -> None:
    """Of one input half of the outputs are nearly nothing; what is a little less than that has no root."""
    rng, count = np.random.default_rng(0), 40
    weight = np.abs(rng.standard_normal((24, 3)) @ rng.standard_normal((3, 24)) + rng.standard_normal((24, 24)) / 2)
    weight[7, ::2] = 1e-4
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "fc"), helper.make_node("Sqrt", ["h"], ["y"])]
    made = model(nodes, {"w": weight.astype(np.float32)}, {"x": ["n", 24]}, {"y": 2})
    x = np.abs(rng.standard_normal((count, 24))).astype(np.float32)
    apart = turns(count, HELD_OUT, np.random.default_rng(0)) == 0
    x[np.flatnonzero(apart == kept)[0]] = np.eye(24)[7]
    with pytest.raises(PromiseError, match="The output y is not finite where the original's is"):
        compress(made, ranks=4, data={"x": x}, benchmark=False, threads=1)


@pytest.mark.parametrize("sample", [*range(5)])
def test_a_sample_that_the_model_does_not_run_on_is_an_error_wherever_it_is(sample: int) -> None:
    rng = np.random.default_rng(0)
    weights = {"table": rng.standard_normal((30, 24)), "w": rng.standard_normal((24, 24))}
    nodes = [
        helper.make_node("Cast", ["x"], ["words"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "words"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"], "fc"),
    ]
    single = {name: weight.astype(np.float32) for name, weight in weights.items()}
    made = model(nodes, single, {"x": ["n", 6]}, {"y": 3})
    x = rng.integers(0, 30, (40, 6)).astype(np.float32)
    x[sample, 0] = 99
    with pytest.raises(DataError, match="does not run on"):
        compress(made, ranks=4, data={"x": x}, benchmark=False, threads=1)
