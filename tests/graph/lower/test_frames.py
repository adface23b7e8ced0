"""Every form of a convolution computes what the node computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from onnx_tucker import forms
from onnx_tucker.factor import METHODS
from onnx_tucker.forms import FORMS
from onnx_tucker.planning.ways import forms_of
from onnx_tucker.runtime.session import FAILURES
from tests.helpers import Array, candidate, conv_model, factorised, look, model, relative, run


def noise(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """A 3D or 1D convolution of either direction, depthwise too, on a batch of a free size."""
    transposed, groups = draw(st.booleans()), draw(st.sampled_from([1, 1, 2, 6]))
    axes = draw(st.sampled_from([3, 3, 3, 1]))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes))

    kernel, strides, dilations = each(1, 4), draw(st.sampled_from([[1] * axes, each(1, 2)])), each(1, 2)
    out, inp = draw(st.integers(1, 4)), draw(st.integers(1 if groups == 6 else 2, 5))
    attributes = {"strides": strides, "dilations": dilations, "group": groups, "pads": [*each(0, 2), *each(0, 2)]}
    size = each(4, 7)
    if transposed:
        weight = noise(groups * inp, out, *kernel)
        node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "conv", **attributes)
        tensors = {"w": weight, "b": noise(groups * out)}
        made = model([node], tensors, {"x": ["n", groups * inp, *size]}, {"y": axes + 2}, opset=draw(opsets))
    else:
        if draw(st.booleans()):
            attributes = {"strides": strides, "group": groups, "auto_pad": draw(auto_pads)}
        weight = noise(groups * out, inp, *kernel)
        made = conv_model(weight, draw(st.booleans()), size, opset=draw(opsets), **attributes)
    return made, noise(draw(st.integers(1, 2)), groups * inp, *size)


opsets = st.sampled_from([7, 9, 11, 13, 18])
auto_pads = st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER"])


@settings(max_examples=150)
@given(convolutions())
def test_all_forms_of_a_convolution_are_equal(case: tuple[onnx.ModelProto, Array]) -> None:
    made, x = case
    try:
        [expected] = run(made, x=x)
    except FAILURES:
        assume(False)
    assume(expected.size and np.abs(expected).max() > 0.1)
    context, [found] = look(made)
    _, *others = forms_of(context, found, [found.site.stage])
    assume(others)
    for form in others:
        lowered = factorised(made, {"conv": (None, None, str(form))})
        onnx.checker.check_model(lowered, full_check=True)
        [computed] = run(lowered, x=x)
        assert computed.shape == expected.shape, form
        assert np.abs(computed - expected).max() <= 1e-5 * np.abs(expected).max(), form


METHODS_AND_RANKS: tuple[tuple[str | None, tuple[int, ...] | None], ...] = (
    (None, None),
    ("tucker2", (3, 2)),
    ("tucker1_in", (3,)),
    ("tucker1_out", (2,)),
    ("separable", (5,)),
    ("tucker_kernel", (3, 4)),
    ("cp", (7,)),
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_fits_layers_and_chains(form: str) -> None:
    """The thesis's kind of layer, a large kernel and few channels, a long 1D kernel, and a depthwise layer."""
    tried = 0
    layers = (noise(8, 6, 7), [20], 1), (noise(8, 6, 3, 5, 5), [8, 12, 12], 1), (noise(6, 1, 3, 5, 5), [7, 12, 12], 6)
    for weight, size, groups in layers:
        made = conv_model(weight, size=size, pads=[k // 2 for k in weight.shape[2:]] * 2, group=groups)
        x, (context, [found]) = noise(2, 6, *size), look(made)
        for method, ranks in METHODS_AND_RANKS:
            if method and (found.skipped or not METHODS[method].applies(found.site.stage, by_name=True)):
                continue
            planned = candidate(found, method, ranks, form)
            if FORMS[form] in forms_of(context, found, planned.stages):
                tried += 1
                chain = factorised(made, {"conv": (method, ranks)}) if method else made
                lowered = factorised(made, {"conv": (method, ranks, form)})
                assert relative(run(chain, x=x)[0], run(lowered, x=x)[0]) < 1e-5
    assert tried


def test_weights_are_stored_once_whatever_the_form() -> None:
    made = conv_model(noise(8, 6, 3, 5, 5), size=[8, 12, 12], pads=[1, 2, 2] * 2)
    for form in ("frames_in", "frames_out", "tiles4", "tiles4_split_columns4"):
        lowered = factorised(made, {"conv": (None, None, form)})
        sizes = {t.name: int(np.prod(t.dims)) for t in lowered.graph.initializer}
        assert sizes[f"conv/{form}/0/weight"] == 8 * 6 * 75
        assert sum(sizes.values()) < 1.3 * 8 * 6 * 75


def test_a_free_batch_stays_free_and_free_frames_are_not_lowered() -> None:
    free = conv_model(noise(8, 6, 3, 3, 3), size=["t", 12, 12])
    context, [found] = look(free)
    assert forms_of(context, found, [found.site.stage]) == [forms.DIRECT]
    made = conv_model(noise(8, 6, 3, 3, 3), size=[8, 12, 12])
    lowered = factorised(made, {"conv": (None, None, "tiles2")})
    for batch in (1, 3):
        x = noise(batch, 6, 8, 12, 12)
        assert relative(run(made, x=x)[0], run(lowered, x=x)[0]) < 1e-5


def test_other_types_and_bodies_keep_their_form() -> None:
    made = conv_model(noise(8, 6, 3, 3, 3).astype(np.float64), size=[8, 12, 12])
    made.graph.input[0].type.tensor_type.elem_type = made.graph.output[0].type.tensor_type.elem_type = 11
    context, [found] = look(made)
    assert forms_of(context, found, [found.site.stage]) == [forms.DIRECT]
