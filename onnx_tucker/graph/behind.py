"""What the nodes behind a value see of it, as far as that is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import onnx

from onnx_tucker.factor.sight import Sight
from onnx_tucker.graph.nodes import STANDARD, Scope, attributes
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.graph.segment import Users

SHAPERS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that leave values as they are."""
MOVES = (*SHAPERS, "Dropout", "Resize", "Transpose", "Upsample")
"""Operators behind which a value is still what it was, though it may be elsewhere."""
CHOICES = {"Softmax": -1, "LogSoftmax": -1, "ArgMax": 0, "TopK": -1}
"""Operators that compare along an axis, and which one that is unless they say so."""
DECISIONS = ("ArgMax", "TopK")
"""Those that give no scores any more."""

Scores = Literal["classes", "events", "perhaps"]
"""What scores are of: classes of which there is one at a time, events of which each may be, or perhaps classes."""


def sight(users: Users, value: str, context: Context, scope: Scope) -> Sight | None:
    """What is seen of a value of the main graph; None where that is all of it.

    Args:
        users: the nodes of the main graph that take each value.
        value: its name.
        context: what is known of the model.
        scope: the main graph.
    """
    found, outputs = Sight(), {output.name for output in getattr(scope.graph, "output", ())}
    while value not in outputs:
        taking = users.get(value, ())
        if len(taking) != 1 or taking[0].domain not in STANDARD:
            break
        further = _through(taking[0], found, context, scope)
        if further is None:
            break
        found, value = further, taking[0].output[0]
    return None if found == Sight() else found


def scores(users: Users, value: str, classes: int, context: Context) -> Scores | None:
    """What a value of the main graph tells by its scores, if outputs of the model are all that it is for.

    Args:
        users: the nodes of the main graph that take each value.
        value: its name.
        classes: how many scores there are of a position.
        context: what is known of the model.

    Returns:
        "classes" where a softmax or an argmax over them says so, "events" where a sigmoid does, else "perhaps"; None
        where something else is made of them, or where it is a single one that may be anything.
    """
    told: Scores | None = "perhaps" if classes > 1 else None
    values = [value]
    while values:
        value = values.pop()
        for node in users.get(value, ()):
            if node.domain not in STANDARD or node.op_type not in {*MOVES, *CHOICES, "Sigmoid"}:
                return None
            if node.op_type == "Sigmoid":
                told = "events"
            elif node.op_type in CHOICES:
                axis, shape = int(attributes(node).get("axis", CHOICES[node.op_type])), context.shapes.get(value, ())
                told = "classes" if told and shape[axis : axis + 1 or None] == (classes,) else told
            if node.op_type not in DECISIONS:
                values.append(node.output[0])
    return told


def _through(node: onnx.NodeProto, found: Sight, context: Context, scope: Scope) -> Sight | None:
    """What is seen from behind a node too; None where it does something else."""
    if found.sigmoid:
        return None  # bounds on what it gives are others
    if node.op_type == "Sigmoid":
        return replace(found, sigmoid=True)
    if node.op_type == "Relu":
        return replace(found, low=max(found.low, 0.0)) if found.high > 0 else None
    if node.op_type == "Clip":
        low, high = (_bound(node, i, context, scope) for i in (1, 2))
        if low is None or high is None or not max(low, found.low) < min(high, found.high):
            return None
        return replace(found, low=max(low, found.low), high=min(high, found.high))
    if node.op_type == "MaxPool" and not found.window and len(node.output) == 1:
        values = attributes(node)
        window = values["kernel_shape"]
        plain = not any(values.get("pads", ())) and values.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        apart = set(values.get("dilations", ())) <= {1} and not values.get("ceil_mode")
        if plain and apart and list(values.get("strides", (1,) * len(window))) == list(window):
            return replace(found, window=tuple(window))
    return None


def _bound(node: onnx.NodeProto, index: int, context: Context, scope: Scope) -> float | None:
    """The lower (1) or upper (2) bound of a Clip; None where it is no constant number."""
    sign = 1 if index == 2 else -1
    name = node.input[index] if index < len(node.input) else ""
    if not name:
        return float(attributes(node).get("max" if index == 2 else "min", sign * math.inf))
    constant = context.constants.find(name, scope)
    return float(constant.read().item()) if constant is not None and math.prod(constant.shape) == 1 else None
