from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_tucker.types import Window
from tests.helpers import Array, factorised, look, model, reasons, run

RNG = np.random.default_rng(0)


def product(weight: Array, shape: list[int | str], *, left: bool = False, rank: int = 3) -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["w", "x"] if left else ["x", "w"], ["y"], "mm")
    return model([node], {"w": weight.astype(np.float32)}, {"x": shape}, {"y": rank})


def test_positions_are_the_vectors_of_all_batches() -> None:
    [found] = look(product(RNG.standard_normal((4, 6)), [2, 5, 4]))[1]
    assert found.site.stage.shape == (6, 4)
    assert found.site.input_shape == (10, 4)
    assert found.reading.layer is not None
    assert found.reading.layer.macs == 10 * 24
    [found] = look(product(RNG.standard_normal((6, 4)), [2, 4, 5], left=True))[1]
    assert found.site.stage.shape == (6, 4)
    assert found.site.input_shape == (10, 4)


def test_a_batch_is_a_number_of_groups() -> None:
    made = product(RNG.standard_normal((3, 2, 4, 6)), [5, 1, 2, 7, 4], rank=5)
    [found] = look(made)[1]
    assert (found.site.stage.groups, found.site.stage.window) == (6, Window())
    assert found.site.input_shape == (5 * 7, 24)
    result = factorised(made, {"mm": ("svd", (2,))})
    assert [tuple(t.dims) for t in result.graph.initializer] == [(3, 2, 4, 2), (3, 2, 2, 6)]


def test_a_batch_needs_the_rank_of_its_input_only() -> None:
    made = product(RNG.standard_normal((8, 4, 6)), ["n", "m", "t", 4], rank=4)
    assert reasons(made) == {"mm": ""}
    assert look(made)[1][0].reading.layer is None
    result = factorised(made, {"mm": ("svd", None)})
    for shape in ((2, 8, 5, 4), (3, 1, 2, 4)):
        x = RNG.standard_normal(shape).astype(np.float32)
        assert np.allclose(run(made, x=x)[0], run(result, x=x)[0], atol=1e-5)


def test_a_weight_that_is_stored_and_not_found_is_not_none() -> None:
    def made(*extra: onnx.NodeProto) -> onnx.ModelProto:
        nodes = [*extra, helper.make_node("MatMul", ["x", "v"], ["y"], "mm")]
        return model(nodes, {"w": np.eye(4, dtype=np.float32)}, {"x": [3, 4], "z": [4, 4]}, {"y": 2})

    [found] = look(made(helper.make_node("Erf", ["w"], ["v"])))[1]
    assert (found.reading.params, reasons(made(helper.make_node("Erf", ["w"], ["v"])))) == (
        None,
        {"mm": "its weight is computed in the graph"},
    )
    ramp = [helper.make_node("Range", ["n0", "n1", "one"], ["r"]), helper.make_node("Reshape", ["r", "square"], ["v"])]
    generated = made(*ramp)
    numbers = {"n0": np.float32(0), "n1": np.float32(16), "one": np.float32(1), "square": np.array([4, 4])}
    generated.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in numbers.items())
    assert look(generated)[1][0].reading.params == 0  # nothing is stored
    through = [helper.make_node("MatMul", ["w", "w"], ["u"], "q"), helper.make_node("Neg", ["u"], ["v"])]
    assert look(made(*through))[1][1].reading.params == 0  # those of the other layer
    [found] = look(made(helper.make_node("Mul", ["w", "z"], ["v"])))[1]
    assert (found.reading.params, found.reading.layer is None) == (0, False)


def test_what_is_left_alone() -> None:
    assert "vector" in reasons(product(RNG.standard_normal(4), [2, 5, 4], rank=2))["mm"]
    assert "matrix" in reasons(product(RNG.standard_normal((3, 4, 6)), [4], rank=2))["mm"]
    assert "do not fit" in reasons(product(RNG.standard_normal((4, 6)), ["a", "b", 5]))["mm"]
    assert "do not fit" in reasons(product(RNG.standard_normal((4, 6)), [5], rank=1))["mm"]
    assert "do not fit" in reasons(product(RNG.standard_normal((6, 4)), ["a", 5, "b"], left=True))["mm"]
    both = model([helper.make_node("MatMul", ["x", "z"], ["y"], "mm")], {}, {"x": [2, 3], "z": [3, 2]}, {"y": 2})
    [found] = look(both)[1]
    assert found.reading.params == 0
    assert found.reading.layer is not None
    assert found.reading.layer.macs == 12


def test_a_free_size_that_the_weight_fixes_leaves_only_the_counts_unknown() -> None:
    made = product(RNG.standard_normal((6, 4)), ["n", 5], left=True, rank=2)
    [found] = look(made)[1]
    assert found.site.input_shape is None
    x = RNG.standard_normal((4, 5)).astype(np.float32)
    assert np.allclose(run(made, x=x)[0], run(factorised(made, {"mm": ("svd", None)}), x=x)[0], atol=1e-5)
