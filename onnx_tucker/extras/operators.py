"""Operators of ONNX in torch.

The linear ones have weights that may be any values, trained or computed from trained ones. The others are those that
onnx2torch lacks, or knows in part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from onnx_tucker.errors import UnsupportedError
from onnx_tucker.extras.recurrent import gru, lstm
from onnx_tucker.graph.ops.conv import window_of
from onnx_tucker.types import Window

Operator = Callable[..., Any]
Attributes = dict[str, Any]

CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
AVERAGED = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
POOLED = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def conv(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__Conv.html."""

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axes, window = x.ndim - 2, _window(attributes, weight.shape[2:], x)
        before, after = window.pads[:axes], window.pads[axes:]
        if before != after:
            x, before = functional.pad(x, _innermost_first(before, after)), (0,) * axes
        return CONV[axes](x, weight, bias, window.strides, before, window.dilations, attributes.get("group", 1))

    return run


def conv_transpose(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__ConvTranspose.html."""
    if "output_shape" in attributes or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise UnsupportedError("a transposed convolution whose pads follow from its output's shape")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        axes = x.ndim - 2
        strides, dilations = (list(attributes.get(name, [1] * axes)) for name in ("strides", "dilations"))
        pads, extra = attributes.get("pads", [0] * 2 * axes), attributes.get("output_padding", [0] * axes)
        before, after = pads[:axes], [end - more for end, more in zip(pads[axes:], extra, strict=True)]
        full = TRANSPOSED[axes](x, weight, None, strides, 0, 0, attributes.get("group", 1), dilations)
        padded = functional.pad(full, [-pad for pad in _innermost_first(before, after)])
        return padded if bias is None else padded + bias.reshape(-1, *[1] * axes)  # also where nothing else arrives

    return run


def gemm(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__Gemm.html."""
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        product = (a.T if attributes.get("transA") else a) @ (b.T if attributes.get("transB") else b)
        scaled = product if alpha == 1 else alpha * product
        return scaled if c is None else scaled + (c if beta == 1 else beta * c)

    return run


def matmul(_: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__MatMul.html."""
    return torch.matmul


def gelu(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__Gelu.html."""
    approximate = attributes.get("approximate", "none")
    return lambda x: functional.gelu(x, approximate=approximate)


def reshape(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__Reshape.html."""

    def run(x: Tensor, shape: Tensor | None = None) -> Tensor:
        sizes = [int(size) for size in (attributes["shape"] if shape is None else shape)]
        if not attributes.get("allowzero"):
            sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        return x.reshape(sizes)

    return run


def global_max_pool(_: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__GlobalMaxPool.html."""
    return lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)


def clip(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__Clip.html; bounds are attributes before opset 11, and may be left out."""
    given = attributes.get("min"), attributes.get("max")

    def run(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        bounds = given if low is None and high is None else (low, high)
        return x if bounds == (None, None) else x.clamp(*bounds)

    return run


def max_pool(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__MaxPool.html, without the places of what is largest."""
    kernel, ceil = list(attributes["kernel_shape"]), bool(attributes.get("ceil_mode"))

    def run(x: Tensor) -> Tensor:
        axes, window = len(kernel), _window(attributes, kernel, x)
        before, after = window.pads[:axes], window.pads[axes:]
        padded = functional.pad(x, _innermost_first(before, after), value=-torch.inf)
        found = POOLED[axes](padded, kernel, window.strides, 0, window.dilations, ceil)
        return _begun(found, x.shape[2:], before, window.strides)

    return run


def average_pool(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__AveragePool.html."""
    kernel, ceil = list(attributes["kernel_shape"]), bool(attributes.get("ceil_mode"))
    if any(dilation != 1 for dilation in attributes.get("dilations", ())):
        raise UnsupportedError("dilated averages")

    def run(x: Tensor) -> Tensor:
        axes, window = len(kernel), _window(attributes, kernel, x)
        before, after = window.pads[:axes], window.pads[axes:]

        def mean(values: Tensor) -> Tensor:
            padded = functional.pad(values, _innermost_first(before, after))
            found = AVERAGED[axes](padded, kernel, window.strides, 0, ceil)
            return _begun(found, x.shape[2:], before, window.strides)

        found = mean(x)
        return found if attributes.get("count_include_pad") else found / mean(torch.ones_like(x[:1, :1]))

    return run


def pad(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__Pad.html."""
    mode, known = attributes.get("mode", "constant"), attributes.get("pads", ())

    def run(x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
        padded = list(range(x.ndim)) if axes is None else [int(axis) % x.ndim for axis in axes]
        sizes = [int(size) for size in (known if pads is None else pads)]
        before, after = sizes[: len(padded)], sizes[len(padded) :]
        if mode == "constant":
            at = dict(zip(padded, zip(before, after, strict=True), strict=True))
            filled = attributes.get("value", 0.0) if value is None else float(value)
            pairs = zip(*(at.get(axis, (0, 0)) for axis in range(x.ndim)), strict=True)
            return functional.pad(x, _innermost_first(*pairs), value=filled)
        for axis, start, end in zip(padded, before, after, strict=True):
            x = x.index_select(axis, _sources(mode, x.shape[axis], start, end).to(x.device))
        return x

    return run


def sliced(attributes: Attributes) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__Slice.html, also where the bounds are attributes, as before opset 10."""

    def run(x: Tensor, *bounds: Tensor | None) -> Tensor:
        given = bounds or [attributes.get(name) for name in ("starts", "ends", "axes")]
        starts, ends, axes, steps = (None if b is None else [int(v) for v in b] for b in (*given, *[None] * 4)[:4])
        for i, (start, end) in enumerate(zip(starts or (), ends or (), strict=True)):
            axis = axes[i] % x.ndim if axes else i
            at = range(x.shape[axis])[slice(start, end, steps[i] if steps else 1)]
            x = x.index_select(axis, torch.tensor(at, dtype=torch.int64, device=x.device))
        return x

    return run


def reduction(over: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Attributes], Operator]:
    """https://onnx.ai/onnx/operators/onnx__ReduceMean.html and the like, whose axes may be an attribute or an input.

    Args:
        over: reduces a tensor over some axes, which stay with size 1.
    """

    def made(attributes: Attributes) -> Operator:
        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            given = attributes.get("axes", ()) if axes is None else axes
            chosen = [int(axis) % x.ndim for axis in given]
            if not chosen and attributes.get("noop_with_empty_axes"):
                return over(x.unsqueeze(0), [0])[0]  # each value by itself
            chosen = chosen or list(range(x.ndim))
            found = over(x, chosen)
            return found if attributes.get("keepdims", 1) else found.squeeze(chosen)

        return run

    return made


def _product(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True, dtype=x.dtype)
    return x


REDUCTIONS: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "ReduceL1": lambda x, axes: x.abs().sum(axes, keepdim=True),
    "ReduceL2": lambda x, axes: torch.linalg.vector_norm(x, 2, axes, keepdim=True),
    "ReduceLogSum": lambda x, axes: x.sum(axes, keepdim=True).log(),
    "ReduceLogSumExp": lambda x, axes: x.logsumexp(axes, keepdim=True),
    "ReduceMax": lambda x, axes: x.amax(axes, keepdim=True),
    "ReduceMean": lambda x, axes: x.mean(axes, keepdim=True),
    "ReduceMin": lambda x, axes: x.amin(axes, keepdim=True),
    "ReduceProd": _product,
    "ReduceSum": lambda x, axes: x.sum(axes, keepdim=True, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes: x.square().sum(axes, keepdim=True),
}

OPERATORS: dict[str, Callable[[Attributes], Operator]] = {
    "AveragePool": average_pool,
    "Clip": clip,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "GRU": gru,
    "Gelu": gelu,
    "Gemm": gemm,
    "GlobalMaxPool": global_max_pool,
    "LSTM": lstm,
    "MatMul": matmul,
    "MaxPool": max_pool,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": sliced,
    **{name: reduction(over) for name, over in REDUCTIONS.items()},
}
"""By ONNX's name: what makes an operator from a node's attributes."""


def _window(attributes: Attributes, kernel: Sequence[int], x: Tensor) -> Window:
    """The window of a convolution or a pool on a value, with its pads spelt out."""
    return window_of(attributes, tuple(kernel)).explicit(tuple(x.shape[2:]))


def _begun(pooled: Tensor, sizes: Sequence[int], before: Sequence[int], strides: Sequence[int]) -> Tensor:
    """The windows that begin before the padding at the end does; with `ceil_mode` there may be others."""
    for axis, (size, start, step) in enumerate(zip(sizes, before, strides, strict=True), 2):
        pooled = pooled.narrow(axis, 0, min(pooled.shape[axis], (size + start - 1) // step + 1))
    return pooled


def _sources(mode: str, size: int, before: int, after: int) -> Tensor:
    """Where along an axis the values of a padded one come from; what is cut off is cut off first."""
    cut, size = max(-before, 0), size - max(-before, 0) - max(-after, 0)
    return cut + _within(mode, size, torch.arange(-max(before, 0), size + max(after, 0)))


def _within(mode: str, size: int, at: Tensor) -> Tensor:
    """Positions on an axis of which some lie beyond its ends, as those that a mode takes for them."""
    if mode == "reflect":
        at = at.remainder(max(2 * (size - 1), 1))
        return torch.where(at < size, at, 2 * (size - 1) - at)
    return at.remainder(size) if mode == "wrap" else at.clamp(0, size - 1)


def _innermost_first(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Pads in the order in which torch takes them."""
    return [pad for pair in reversed(list(zip(before, after, strict=True))) for pad in pair]
