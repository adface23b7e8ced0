"""Full rank equals the original in onnxruntime, for every form of a Gemm."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from onnx_tucker.types import Site
from tests.helpers import Array, factorised, look, model, reasons, run

C_SHAPES = {"none": None, "scalar": (), "one": (1,), "row": (5,), "column": (3, 1), "full": (3, 5)}


def gemm_model(weight: Array, c: Array | None, opset: int, **attributes: float) -> onnx.ModelProto:
    tensors = {"w": weight} if c is None else {"w": weight, "c": c}
    node = helper.make_node("Gemm", ["x", *tensors], ["y"], "gemm", **attributes)
    inp = weight.shape[1] if attributes.get("transB") else weight.shape[0]
    shape = [inp, 3] if attributes.get("transA") else [3, inp]
    return model([node], tensors, {"x": shape}, {"y": 2}, opset=opset)


@given(
    name=st.sampled_from(["svd", "tucker2"]),
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.25, 0.0]),
    c=st.sampled_from(list(C_SHAPES)),
    inp=st.integers(1, 8),
    opset=st.sampled_from([7, 9, 11, 13, 18]),
)
def test_full_rank_equals_the_original(
    name: str, trans_a: bool, trans_b: bool, alpha: float, beta: float, c: str, inp: int, opset: int
) -> None:
    if c == "none" and opset < 11:
        return  # C is required there
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((5, inp) if trans_b else (inp, 5)).astype(np.float32)
    shape = C_SHAPES[c]
    bias = None if shape is None else rng.standard_normal(shape).astype(np.float32)
    made = gemm_model(weight, bias, opset, transA=int(trans_a), transB=int(trans_b), alpha=alpha, beta=beta)
    [found] = look(made)[1]
    assert found.site.read().shape == (5, inp)
    assert found.site.input_shape == (3, inp)
    spliced = factorised(made, {"gemm": (name, None)})
    onnx.checker.check_model(spliced, full_check=True)
    x = rng.standard_normal((inp, 3) if trans_a else (3, inp)).astype(np.float32)
    assert np.allclose(run(made, x=x)[0], run(spliced, x=x)[0], atol=1e-4)


@pytest.mark.parametrize("transposed", [0, 1])
def test_an_input_that_does_not_fit_is_skipped(transposed: int) -> None:
    made = gemm_model(np.ones((4, 5), np.float32), None, 13, transA=transposed)
    size = made.graph.input[0].type.tensor_type.shape.dim[1 - transposed]
    size.dim_value = 0
    assert "do not fit" in reasons(made)["gemm"]
    size.dim_param = "n"  # which is taken for 1, and is not
    assert isinstance(look(made)[1][0].reading.result, Site)


def test_before_opset_7_it_is_skipped() -> None:
    made = gemm_model(np.ones((4, 5), np.float32), np.ones(5, np.float32), 6, broadcast=1)
    [found] = look(made)[1]
    assert not found.is_site
    assert "opset 7" in found.reading.result.reason


def test_scalings_are_counted() -> None:
    weight = np.ones((4, 5), np.float32)
    made = gemm_model(weight, np.ones(5, np.float32), 18, alpha=0.5, beta=0.5)
    [found] = look(made)[1]
    assert found.site.scalings == 2
    assert found.site.bias


def test_a_missing_c_of_old_opsets_has_a_name_of_its_own() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    made = gemm_model(weight, np.ones(5, np.float32), 9, transB=1)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(1, np.float32), "gemm/svd/0/zero"))
    result = factorised(made, {"gemm": ("svd", None)})
    onnx.checker.check_model(result, full_check=True)
