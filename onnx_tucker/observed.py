"""Shapes that inference does not find, read off a run: those behind branches and behind values that are computed."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx

from onnx_tucker.graph.ends import SELECTIONS
from onnx_tucker.graph.ops import OPS
from onnx_tucker.graph.segment import between, model_of
from onnx_tucker.graph.shapes import Shapes
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line

logger = logging.getLogger(__name__)

BY_VALUES = frozenset((*SELECTIONS, "If", "Loop", "Scan", "SequenceMap"))
"""Operators whose outputs are of a shape that depends on values, and not only on shapes."""


def follow(model: onnx.ModelProto, names: Iterable[str]) -> bool:
    """Whether shapes of values of the main graph follow from those of the inputs and from whole numbers.

    Then noise may tell them too.
    """
    nodes = [*between(model.graph.node, (), names), *(node for function in model.functions for node in function.node)]
    return BY_VALUES.isdisjoint(node.op_type for node in nodes)


def unknown(model: onnx.ModelProto, known: Shapes) -> list[str]:
    """What nodes with weights take and give of which the shape is not known, in the main graph."""
    nodes = [node for node in model.graph.node if node.op_type in OPS]
    values = {name for node in nodes for name in (*node.input[:2], *node.output[:1])}
    return sorted(values - known.keys() - {tensor.name for tensor in model.graph.initializer})


def shapes(model: onnx.ModelProto, folder: Path, machine: Machine, feed: Feed, names: list[str]) -> Shapes:
    """The shapes of values on an input; none where the model does not run on it.

    Args:
        model: the model.
        folder: what its external data is relative to.
        machine: what it is run on.
        feed: the input.
        names: of the values, in the main graph.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    content = model_of(model, between(list(model.graph.node), feed, names), tensors, feed, names)
    try:
        session = machine.session(content, folder)
        taken = {value.name: feed[value.name] for value in session.get_inputs()}
        found = dict(zip(names, session.run(names, taken), strict=True))
    except FAILURES as error:
        logger.info("shapes of %d values stay unknown: %s", len(names), first_line(error))
        return {}
    return {name: value.shape for name, value in found.items() if isinstance(value, np.ndarray)}


def alike(model: onnx.ModelProto, folder: Path, machine: Machine, feed: Feed, names: list[str]) -> Shapes:
    """The same as `shapes`, but only those that stay where all whole numbers and truths of an input are turned around.

    An input of noise has zeros and ones there, and what depends on them says nothing of other inputs.
    """
    other = {
        name: array if array.dtype.kind == "f" else (1 - array.astype(np.int8)).astype(array.dtype)
        for name, array in feed.items()
    }
    one, two = (shapes(model, folder, machine, values, names) for values in (feed, other))
    return {name: shape for name, shape in one.items() if two.get(name) == shape}
