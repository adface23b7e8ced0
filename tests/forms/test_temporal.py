from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_tucker.forms.temporal import Temporal
from onnx_tucker.types import Window


def window(kernel: int, stride: int = 1, dilation: int = 1, pad: int = 0, transposed: bool = False) -> Window:
    extra = {"output_padding": (0, 0, 0)} if transposed else {}
    return Window(
        (kernel, 1, 1), (stride, 1, 1), (dilation, 1, 1), (pad, 0, 0, pad, 0, 0), transposed=transposed, **extra
    )


def reference(data: np.ndarray, taps: np.ndarray, w: Window) -> np.ndarray:
    """A correlation along the first axis, by its definition."""
    kernel, stride, dilation, pad = w.kernel[0], w.strides[0], w.dilations[0], w.pads[0]
    outputs = w.output_size((len(data), 1, 1))[0]
    result = np.zeros((outputs, *data.shape[1:]))
    for t in range(outputs):
        for k in range(kernel):
            frame = t * stride + k * dilation - pad
            if 0 <= frame < len(data):
                result[t] += taps[k] * data[frame]
    return result


windows = st.builds(
    window, st.integers(1, 5), stride=st.integers(1, 3), dilation=st.integers(1, 3), pad=st.integers(0, 5)
)


@given(windows, st.integers(1, 9))
def test_all_forms_are_the_correlation(w: Window, frames: int) -> None:
    if w.output_size((frames, 1, 1))[0] < 1:
        return
    rng = np.random.default_rng(frames)
    data, taps = rng.standard_normal((frames, 4)), rng.standard_normal(w.kernel[0])
    expected, temporal = reference(data, taps, w), Temporal.of(w, (frames, 1, 1))
    used = taps[temporal.taps.start : temporal.taps.stop]
    laid = (temporal.taps_in() @ data).reshape(temporal.outputs, len(used), -1)
    assert np.allclose(np.einsum("tkx,k->tx", laid, used), expected)
    results = np.einsum("tx,k->tkx", data, used).reshape(-1, 4)
    assert np.allclose(temporal.taps_out() @ results, expected)
    for outputs in range(2, 9 - len(used)):
        if temporal.stride > 1 or len(used) < 2:
            with pytest.raises(ValueError, match=r"stride|not known"):
                temporal.tiles(outputs)
            continue
        tiles = temporal.tiles(outputs)
        products = np.einsum("jif,fx,j->jix", tiles.spread, data, tiles.kernel @ used)
        assert np.allclose(np.einsum("tji,jix->tx", tiles.gather, products), expected)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 6))
def test_inputs_can_be_spread_out(kernel: int, stride: int, dilation: int, frames: int) -> None:
    w = window(kernel, stride, dilation, transposed=True)
    temporal, rng = Temporal.of(w, (frames, 1, 1)), np.random.default_rng(0)
    data, taps = rng.standard_normal((frames, 2)), rng.standard_normal(kernel)
    expected = np.zeros((temporal.outputs, 2))
    for f in range(frames):
        for k in range(kernel):
            expected[f * stride + k * dilation] += taps[k] * data[f]
    used = taps[temporal.taps.start : temporal.taps.stop]
    results = np.einsum("tx,k->tkx", data, used).reshape(-1, 2)
    assert np.allclose(temporal.taps_out() @ results, expected)


def test_taps_that_meet_padding_only_are_left_out() -> None:
    assert Temporal.of(window(3, pad=1), (1, 1, 1)).taps == range(1, 2)
    assert Temporal.of(window(3, dilation=4, pad=4), (4, 1, 1)).taps == range(1, 2)
    assert Temporal.of(window(3, pad=1), (2, 1, 1)).taps == range(3)


def test_one_frame_each_needs_no_matrix() -> None:
    assert Temporal.of(window(1), (5, 1, 1)).trivial
    assert Temporal.of(window(3, pad=1), (1, 1, 1)).trivial
    assert not Temporal.of(window(1, stride=2), (5, 1, 1)).trivial
    assert not Temporal.of(window(1, pad=1), (5, 1, 1)).trivial
    late = Window((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0, 1, 0, 0))  # an output that sees padding only
    assert not Temporal.of(late, (4, 1, 1)).trivial


def test_a_bias_goes_to_a_tap_that_no_output_lacks() -> None:
    assert Temporal.of(window(3, pad=1), (5, 1, 1)).sure_tap() == 1
    assert Temporal.of(window(3), (5, 1, 1)).sure_tap() == 1
    assert Temporal.of(window(2, stride=2, transposed=True), (5, 1, 1)).sure_tap() is None
    assert Temporal.of(window(2, pad=1), (3, 1, 1)).sure_tap() is None
