"""What the nodes behind a value see of it, as far as that is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import onnx

from onnx_tucker.factor.sight import Affine, Sight
from onnx_tucker.graph.elementwise import activation
from onnx_tucker.graph.nodes import SOFTMAX_OF_ONE_AXIS, SOFTMAXES, STANDARD, attributes, softmax_axis
from onnx_tucker.graph.view import View

SHAPERS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that leave values as they are."""
MOVES = (*SHAPERS, "Dropout", "Resize", "Transpose", "Upsample")
"""Operators behind which a value is still what it was, though it may be elsewhere."""
DECISIONS = {"ArgMax": 0, "TopK": -1}
"""Operators that decide along an axis and give no scores any more, and which one that is unless they say so."""

Scores = Literal["classes", "events", "perhaps"]
"""What scores are of: classes of which there is one at a time, events of which each may be, or perhaps classes."""


def sight(view: View, value: str, axis: int = 1) -> Sight | None:
    """What is seen of a value of the main graph; None where that is all of it.

    Args:
        view: the graph.
        value: the name of the value.
        axis: along which its channels lie; that of a product from the end, whose vectors are not pooled.
    """
    found, _ = seen(view, value, axis)
    return None if found.whole else found


def seen(view: View, value: str, axis: int = 1) -> tuple[Sight, str]:
    """What is seen of a value of the main graph, and the name of the value that this is; see `sight`."""
    found, outputs = Sight(), view.outputs()
    while value not in outputs:
        taking = view.users.get(value, ())
        if len(taking) == 1 and taking[0].domain in STANDARD:
            further = _bounded(view, taking[0], found) or _pooled(taking[0], found, axis)
            if further is None and found == Sight(affine=found.affine):
                further = _normalised(view, taking[0], value, axis, found)
            if further is not None:
                found, value = further, taking[0].output[0]
                continue
        curved = activation(view, value, found.curve)
        if curved is None or found.blind(curved[0]):
            break
        found, value = replace(found, curve=curved[0]), curved[1]
    return found, value


def scores(view: View, value: str, classes: int) -> Scores | None:
    """What a value of the main graph tells by its scores, if outputs of the model are all that it is for.

    Args:
        view: the graph.
        value: the name of the value.
        classes: how many scores there are of a position.

    Returns:
        "classes" where a softmax or an argmax over them says so, "events" where a sigmoid does, else "perhaps"; None
        where something else is made of them, or where it is a single one that may be anything.
    """
    told: Scores | None = "perhaps" if classes > 1 else None
    values = [value]
    while values:
        value = values.pop()
        for node in view.users.get(value, ()):
            if node.domain not in STANDARD or node.op_type not in {*MOVES, *SOFTMAXES, *DECISIONS, "Sigmoid"}:
                return None
            if node.op_type == "Sigmoid":
                told = "events"
            elif node.op_type not in MOVES and told and _compared(view, node) == (classes,):
                told = "classes"
            if node.op_type not in DECISIONS:
                values.append(node.output[0])
    return told


def _compared(view: View, node: onnx.NodeProto) -> tuple[int, ...]:
    """The lengths of the axes over which a softmax or a decision compares, but for those of length one."""
    shape, opset, given = view.context.shapes.get(node.input[0], ()), view.context.opset, attributes(node)
    if node.op_type in SOFTMAXES:
        axis, several = softmax_axis(given, opset), opset < SOFTMAX_OF_ONE_AXIS
    else:
        axis, several = int(given.get("axis", DECISIONS[node.op_type])), False
    return tuple(size for size in shape[axis : None if several else axis + 1 or None] if size != 1)


def _normalised(view: View, node: onnx.NodeProto, value: str, axis: int, found: Sight) -> Sight | None:
    """What is seen from behind constants that scale or shift the channels too; None for anything else."""
    shape = view.context.shapes.get(value)
    if not shape or not -len(shape) <= axis < len(shape):
        return None
    sizes = [1] * len(shape)
    sizes[axis] = shape[axis]  # of a constant that has a value for each channel
    if node.op_type == "BatchNormalization":
        affine = _standardised(view, node) if axis % len(shape) == 1 else None
    else:
        affine = _scaled_or_shifted(view, node, value, sizes)
    if affine is None or not np.isfinite([affine.scale, affine.shift]).all():
        return None
    return replace(found, affine=affine if found.affine is None else affine.behind(found.affine))


def _standardised(view: View, node: onnx.NodeProto) -> Affine | None:
    """What a normalisation of the channels by constants does; None where it does something else."""
    given, shape = attributes(node), view.context.shapes.get(node.input[0], ())
    constants = [view.constant(name) for name in node.input[1:5]]
    alone = not given.get("training_mode") and len(node.output) == 1
    if not alone or any(one is None or one.shape != shape[1:2] for one in constants):
        return None
    scale, shift, mean, variance = (one.read().astype(np.float64) for one in constants if one is not None)
    scale = scale / np.sqrt(variance + given.get("epsilon", 1e-5))
    return Affine(scale, shift - mean * scale)


def _scaled_or_shifted(view: View, node: onnx.NodeProto, value: str, sizes: Sequence[int | None]) -> Affine | None:
    """What a sum or a product with a constant of these sizes does; None for anything else."""
    if node.op_type not in ("Add", "Sub", "Mul", "Div") or list(node.input).count(value) != 1:
        return None
    first = node.input[0] == value
    constant = view.constant(node.input[first])
    if constant is None or [1] * (len(sizes) - len(constant.shape)) + list(constant.shape) != list(sizes):
        return None
    channels = constant.read().astype(np.float64).ravel()
    zeros, ones = np.zeros_like(channels), np.ones_like(channels)
    if node.op_type == "Mul":
        return Affine(channels, zeros)
    if node.op_type == "Add":
        return Affine(ones, channels)
    if node.op_type == "Sub":
        return Affine(ones, -channels) if first else Affine(-ones, channels)
    return Affine(1 / channels, zeros) if first and channels.all() else None


def _bounded(view: View, node: onnx.NodeProto, found: Sight) -> Sight | None:
    """What is seen from behind a bound too; None where a node is none, or bounds what a curve gives."""
    if node.op_type == "Relu" and found.curve is None:
        return replace(found, low=max(found.low, 0.0)) if found.high > 0 else None
    if node.op_type == "Clip" and found.curve is None:
        low, high = (_bound(view, node, i) for i in (1, 2))
        if low is None or high is None or not max(low, found.low) < min(high, found.high):
            return None
        return replace(found, low=max(low, found.low), high=min(high, found.high))
    return None


def _pooled(node: onnx.NodeProto, found: Sight, axis: int) -> Sight | None:
    """What is seen from behind a pool of windows side by side too; None where a node is none, or not the first."""
    rising = found.curve is None or found.curve.rising  # then the largest stays the largest
    if node.op_type == "MaxPool" and rising and axis > 0 and not found.window and len(node.output) == 1:
        values = attributes(node)
        window = values["kernel_shape"]
        plain = not any(values.get("pads", ())) and values.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        apart = set(values.get("dilations", ())) <= {1} and not values.get("ceil_mode")
        if plain and apart and list(values.get("strides", (1,) * len(window))) == list(window):
            return replace(found, window=tuple(window))
    return None


def _bound(view: View, node: onnx.NodeProto, index: int) -> float | None:
    """The lower (1) or upper (2) bound of a Clip; None where it is no constant number."""
    sign = 1 if index == 2 else -1
    name = node.input[index] if index < len(node.input) else ""
    if not name:
        return float(attributes(node).get("max" if index == 2 else "min", sign * math.inf))
    number = view.number(name)
    return None if number is None else float(number.item())
