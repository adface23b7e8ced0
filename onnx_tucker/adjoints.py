"""How derivatives pass backwards through the nodes of a graph, operator by operator (reverse accumulation).

Few operators are written a second time in numpy that onnxruntime has: what takes each value by itself is run again on
values a bit up and down; what only moves values about is run on their numbers, which tells where each came from; and
convolutions pass derivatives on by transposed ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.graph.behind import SHAPERS
from onnx_tucker.graph.elementwise import OPERATORS

STEP = 1e-3
"""How far up and down values go, relative to the root of their mean square."""
EXACT = 2**24
"""Whole numbers up to this are exact in single precision."""

Value = NDArray[Any]


class Run(Protocol):
    """Runs an operator on values by onnxruntime."""

    def __call__(
        self, inputs: Sequence[Value | None], op: str = "", outputs: int = 0, **attributes: Any
    ) -> list[Value]:
        """What comes out.

        Args:
            inputs: what goes in; None for what is left out.
            op: a standard operator, with its attributes; the node itself unless given.
            outputs: how many are asked for; as many as the node has unless given.
            **attributes: of the operator.
        """
        ...


class Call(NamedTuple):
    """A node as it was run.

    Attributes:
        op: its operator.
        attributes: of it.
        opset: the version of its operator's set.
        inputs: what went in; None for what is left out.
        outputs: what came out; None for what nobody takes.
        run: runs it, or other operators.
    """

    op: str
    attributes: Mapping[str, Any]
    opset: int
    inputs: Sequence[Value | None]
    outputs: Sequence[Value | None]
    run: Run

    def given(self, index: int) -> Value:
        """An input that is there.

        Raises:
            ValueError: it is not.
        """
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise ValueError(f"a {self.op} has no input {index}")
        return found

    @property
    def made(self) -> Value:
        """The first output.

        Raises:
            ValueError: nobody takes it.
        """
        if self.outputs[0] is None:
            raise ValueError(f"nobody takes what a {self.op} gives")
        return self.outputs[0]


Rule = Callable[[Call, Sequence[Value | None], int], Value]
"""From the derivatives with respect to the outputs, those with respect to one of the inputs.

It raises a ValueError where the node does something that it does not know.
"""


def reduced(change: Value, shape: Sequence[int]) -> Value:
    """Derivatives with respect to a value that was repeated to a larger shape: the sums over what is repeated."""
    extra = change.ndim - len(shape)
    axes = (*range(extra), *(extra + i for i, n in enumerate(shape) if n == 1 and change.shape[extra + i] > 1))
    return change.sum(axis=axes, keepdims=True).reshape(shape) if axes else change


def _single(changes: Sequence[Value | None]) -> Value:
    if changes[0] is None or any(change is not None for change in changes[1:]):
        raise ValueError("derivatives of other outputs are needed")
    return changes[0]


def _by_itself(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through what takes every value by itself, alone or with those at the same place of others."""
    x, change = call.given(index), _single(changes)
    if x.dtype != np.float32 or not x.size:
        raise ValueError("there are no numbers in single precision")
    known = np.isfinite(x)
    step = np.float32(STEP * (float(np.sqrt(np.square(x).mean(dtype=np.float64, where=known))) if known.any() else 1))
    step = step or np.float32(STEP)
    up, down = (call.run([*call.inputs[:index], x + way, *call.inputs[index + 1 :]])[0] for way in (step, -step))
    return reduced(change * ((up - down) / (2 * step)), x.shape)


def _normalised(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a normalisation by constants."""
    if index or call.attributes.get("training_mode"):
        raise ValueError("a normalisation that varies")
    return _by_itself(call, changes, index)


def _added(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through sums and differences, in which small steps of a small value would be lost."""
    change = _single(changes)
    return reduced(-change if call.op == "Sub" and index else change, call.given(index).shape)


def _divided(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    share = _single(changes) / call.given(1)
    return reduced(-share * call.made if index else share, call.given(index).shape)


def _raised(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a power, whose base a step might lead below 0."""
    base, exponent = call.given(0), call.given(1)
    slope = call.made * np.log(base) if index else exponent * np.power(base, exponent - 1)
    return np.asarray(reduced(_single(changes) * slope, call.given(index).shape), np.float32)


def _chosen(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    taken = call.given(0) if index == 1 else ~call.given(0)
    return reduced(_single(changes) * taken, call.given(index).shape)


def _exponential(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through exponentials and what would leave its domain by a step."""
    change, y = _single(changes), call.made
    if call.op == "Log":
        return np.asarray(change / call.given(index))
    if call.op == "Sqrt":
        return np.asarray(change / (2 * y))
    return np.asarray(change * (y if call.op == "Exp" else -y * y))


def _multiplied(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    return reduced(_single(changes) * call.given(1 - index), call.given(index).shape)


def _rectified(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    return _single(changes) * (call.given(index) > 0)


def _moved(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through what only moves values about: it is run on their numbers, of which 0 stands for all others."""
    x = call.given(index)
    if call.op in SHAPERS:
        return _single(changes).reshape(x.shape).astype(np.float32, copy=False)
    if call.attributes.get("value") or call.attributes.get("extrapolation_value"):
        raise ValueError("numbers between the others")
    if call.attributes.get("mode", "nearest") not in ("nearest", "constant", "reflect", "edge", "wrap", "DCR", "CRD"):
        raise ValueError("new values between the others")

    def numbered(kind: type[np.int64] | type[np.float32]) -> list[Value]:
        ours = np.arange(1, x.size + 1, dtype=kind).reshape(x.shape)
        others = [o if o is None or o.dtype != x.dtype or not o.size else np.zeros_like(o, kind) for o in call.inputs]
        if call.op in ("Resize", "Upsample"):  # what they are stretched by
            others = list(call.inputs)
        return call.run([*others[:index], ours, *others[index + 1 :]])

    try:
        sources = numbered(np.int64)
    except Exception as error:  # types that an operator does not take are told by any of onnxruntime's
        if x.size >= EXACT:
            raise ValueError("too many values to be numbered") from error
        sources = numbered(np.float32)
    found = np.zeros(x.size + 1)
    for source, change in zip(sources, changes, strict=False):
        if change is not None:
            found += np.bincount(source.ravel().astype(np.int64), change.ravel(), x.size + 1)
    return found[1:].reshape(x.shape).astype(np.float32)


def _axes(call: Call, x: Value) -> tuple[int, ...]:
    """Those that a reduction goes over."""
    given = call.attributes.get("axes")
    if given is None and len(call.inputs) > 1 and call.inputs[1] is not None:
        given = call.inputs[1].tolist()
    if call.op.startswith("Global"):
        given = range(2, x.ndim)
    return tuple(a % x.ndim for a in given) if given else tuple(range(x.ndim))


def _summed(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through sums, means and largest values."""
    x, change = call.given(index), _single(changes)
    axes = _axes(call, x)
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    spread = np.broadcast_to(change.reshape(kept), x.shape)
    if call.op.endswith("Sum"):
        return spread
    if call.op.endswith(("Mean", "AveragePool")):
        return np.asarray(spread / np.float32(math.prod(x.shape[a] for a in axes)))
    largest = x == call.made.reshape(kept)
    return np.asarray(spread * largest / largest.sum(axis=axes, keepdims=True, dtype=np.float32))


def _window(call: Call, size: Sequence[int], result: Sequence[int]) -> dict[str, Any]:
    """Strides, dilations and pads of a window over values of these lengths, as attributes.

    Raises:
        ValueError: lengths of the result are rounded up.
    """
    given, n = call.attributes, len(size)
    kernel = given.get("kernel_shape") or list(call.given(1).shape[2:])
    strides, dilations = (list(given.get(name) or [1] * n) for name in ("strides", "dilations"))
    pads = list(given.get("pads") or [0] * 2 * n)
    auto = given.get("auto_pad", "NOTSET")
    reach = [(m - 1) * s + d * (k - 1) + 1 for m, s, d, k in zip(result, strides, dilations, kernel, strict=True)]
    if auto.startswith("SAME"):
        total = [max(r - x, 0) for r, x in zip(reach, size, strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*less, *more] if auto == "SAME_UPPER" else [*more, *less]
    if any(r > x + a + b for r, x, a, b in zip(reach, size, pads[:n], pads[n:], strict=True)):
        raise ValueError("lengths that are rounded up")
    return {"kernel_shape": list(kernel), "strides": strides, "dilations": dilations, "pads": pads}


def _spread(call: Call, change: Value, weight: Value, shape: Sequence[int], group: int) -> Value:
    """What the transpose of a convolution gives, of the shape that the convolution took.

    With strides of 1 that is a convolution too, which takes a tenth of the time of a transposed one.
    """
    window = _window(call, shape[2:], change.shape[2:])
    sizes = zip(change.shape[2:], window["kernel_shape"], window["strides"], window["dilations"], strict=True)
    reach = [((result - 1) * s + d * (k - 1) + 1, d * (k - 1)) for result, k, s, d in sizes]
    before = window["pads"][: len(reach)]
    after = [whole - size - pad for (whole, _), size, pad in zip(reach, shape[2:], before, strict=True)]
    unseen = [max(0, -pad) for pad in after]  # values at the end that no window sees
    after = [max(0, pad) for pad in after]
    around = [beyond - pad for (_, beyond), pad in zip(reach * 2, [*before, *after], strict=True)]
    if max(window["strides"]) > 1 or min(around) < 0:
        [found] = call.run([change, weight], "ConvTranspose", group=group, **{**window, "pads": [*before, *after]})
    else:
        turned = np.flip(weight, tuple(range(2, weight.ndim))).reshape(group, -1, *weight.shape[1:]).swapaxes(1, 2)
        turned = np.ascontiguousarray(turned).reshape(-1, *turned.shape[2:])
        [found] = call.run([change, turned], "Conv", group=group, **{**window, "pads": around})
    return np.pad(found, [(0, 0), (0, 0), *((0, m) for m in unseen)]) if any(unseen) else found


def _convolved(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a convolution, with respect to what it convolves."""
    if index:
        raise ValueError("a weight that varies")
    return _spread(call, _single(changes), call.given(1), call.given(0).shape, call.attributes.get("group", 1))


def _transposed(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a transposed convolution, with respect to what it convolves."""
    given, change = call.attributes, _single(changes)
    if index or given.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in given:
        raise ValueError("a weight that varies, or pads that follow from a shape")
    kept = {name: given[name] for name in ("kernel_shape", "strides", "dilations", "pads", "group") if name in given}
    [found] = call.run([change, call.given(1)], "Conv", **kept)
    shape = call.given(0).shape  # what is padded at the end may be seen too
    return found[tuple(slice(n) for n in shape)]


def _largest(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through max pooling."""
    x = call.given(index)
    _, places = call.run(call.inputs, "MaxPool", 2, **{**call.attributes, "storage_order": 0})
    return np.bincount(places.ravel(), _single(changes).ravel(), x.size).reshape(x.shape).astype(np.float32)


def _averaged(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through average pooling."""
    x, change = call.given(index), _single(changes)
    window = _window(call, x.shape[2:], change.shape[2:])
    ones = np.ones((1, 1, *window["kernel_shape"]), np.float32)
    share = change / np.float32(ones.size)
    if not call.attributes.get("count_include_pad"):
        [seen] = call.run([np.ones((1, 1, *x.shape[2:]), np.float32), ones], "Conv", **window)
        share = change / seen
    by_channel = share.reshape(-1, 1, *share.shape[2:])
    return _spread(call, by_channel, ones, (len(by_channel), 1, *x.shape[2:]), 1).reshape(x.shape)


def _gemm(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    given, change = call.attributes, _single(changes)
    alpha, beta = (np.float32(given.get(name, 1.0)) for name in ("alpha", "beta"))
    if index == 2:
        return reduced(beta * change, call.given(2).shape)
    other = call.given(1 - index)
    if given.get("transB" if index == 0 else "transA"):
        other = other.T
    found = np.asarray(alpha * (change @ other.T if index == 0 else other.T @ change))
    return found.T if given.get("transA" if index == 0 else "transB") else found


def _product(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    left, right, change = call.given(0), call.given(1), _single(changes)
    if min(left.ndim, right.ndim) < 2:
        raise ValueError("a product with a vector")
    if index == 0:
        return reduced(change @ right.swapaxes(-1, -2), left.shape)
    return reduced(left.swapaxes(-1, -2) @ change, right.shape)


def _softmax(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a softmax or its logarithm; before opset 13 over all axes from one on."""
    y, change = call.made, _single(changes)
    old = call.opset < 13
    axis = int(call.attributes.get("axis", 1 if old else -1)) % y.ndim
    axes: Any = tuple(range(axis, y.ndim)) if old else axis
    if call.op == "LogSoftmax":
        return np.asarray(change - np.exp(y) * change.sum(axis=axes, keepdims=True))
    return np.asarray(y * (change - (y * change).sum(axis=axes, keepdims=True)))


def _standardised(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a normalisation by mean and variance of the values themselves."""
    x, change = call.given(0), _single(changes)
    if index:
        raise ValueError("a scale that varies")
    scale = call.given(1)
    if call.op == "LayerNormalization":
        axes = tuple(range(int(call.attributes.get("axis", -1)) % x.ndim, x.ndim))
    else:
        axes, scale = tuple(range(2, x.ndim)), scale.reshape(-1, *[1] * (x.ndim - 2))
    centred = x - x.mean(axis=axes, keepdims=True)
    spread = np.sqrt(np.square(centred).mean(axis=axes, keepdims=True) + call.attributes.get("epsilon", 1e-5))
    unit, scaled = centred / spread, change * scale
    mean = partial(np.mean, axis=axes, keepdims=True)
    return np.asarray((scaled - mean(scaled) - unit * mean(scaled * unit)) / spread, np.float32)


_MOVES = (
    *SHAPERS,
    *"DepthToSpace Dropout Expand Gather GatherElements GatherND Pad Resize Slice SpaceToDepth Split Tile".split(),
    *"Concat Transpose Upsample".split(),
)
_BY_ITSELF = (*OPERATORS, *"Cos Mean PRelu Sin".split())

RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_BY_ITSELF, _by_itself),
    **dict.fromkeys(_MOVES, _moved),
    **dict.fromkeys(("Add", "Sub", "Sum"), _added),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMean", "ReduceSum"), _summed),
    **dict.fromkeys(("LogSoftmax", "Softmax"), _softmax),
    **dict.fromkeys(("InstanceNormalization", "LayerNormalization"), _standardised),
    "AveragePool": _averaged,
    "BatchNormalization": _normalised,
    "Conv": _convolved,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _product,
    **dict.fromkeys(("Exp", "Log", "Reciprocal", "Sqrt"), _exponential),
    "Div": _divided,
    "MaxPool": _largest,
    "Mul": _multiplied,
    "Pow": _raised,
    "Relu": _rectified,
    "Where": _chosen,
}
"""By operator."""
