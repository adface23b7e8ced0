"""What is read off a run: shapes that inference does not find, and which outputs put unlike values together."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx

from onnx_tucker.graph.elementwise import View
from onnx_tucker.graph.ends import joined
from onnx_tucker.graph.layer import probe
from onnx_tucker.graph.nodes import places
from onnx_tucker.graph.ops import OPS
from onnx_tucker.graph.segment import between, model_of
from onnx_tucker.graph.shapes import Shapes
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line, run_named

logger = logging.getLogger(__name__)

BY_VALUES = frozenset("Compress If Loop NonMaxSuppression NonZero Scan SequenceMap Unique".split())
"""Operators whose outputs are of a shape that depends on values, and not only on shapes."""

UNLIKE = 10
"""Times that the values of one part of an output are as large as those of another, from which on each counts alone."""


def follow(model: onnx.ModelProto) -> bool:
    """Whether shapes follow from those of the inputs and from whole numbers, so that noise may tell them too."""
    return BY_VALUES.isdisjoint(place.node.op_type for place in places(model))


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
    """Those of the same that do not depend on the whole numbers and truths, each 0 or 1, of an input of noise."""
    other = {
        name: array if array.dtype.kind == "f" else (1 - array.astype(np.int8)).astype(array.dtype)
        for name, array in feed.items()
    }
    one, two = (shapes(model, folder, machine, values, names) for values in (feed, other))
    return {name: shape for name, shape in one.items() if two.get(name) == shape}


def parts(view: View, folder: Path, machine: Machine, feed: Feed) -> dict[str, list[str]]:
    """What outputs put together of values with fractions, by output, where some are far larger than others.

    A detector's boxes, in pixels, are ten thousand times its scores: of an error relative to all of them, scores are no
    part that could be seen.

    Args:
        view: the main graph.
        folder: what the model's external data is relative to.
        machine: what it is run on.
        feed: an input.
    """
    found = {}
    for output, names in joined(view).items():
        try:
            values = run_named(machine.session(probe(view.model, names), folder), feed)
        except FAILURES as error:
            logger.info("the parts of %s stay unknown: %s", output, first_line(error))
            continue
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        sizes = {name: _size(array) for name, array in arrays.items() if array.dtype.kind == "f" and array.size}
        known = {name: size for name, size in sizes.items() if size > 0}
        if known and max(known.values()) > UNLIKE * min(known.values()):
            found[output] = [*known]
    return found


def _size(array: np.ndarray) -> float:
    """The root mean square of the finite values of an array."""
    finite = array[np.isfinite(array)].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0
