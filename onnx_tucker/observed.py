"""What is read off a run: shapes that inference does not find, and by which values outputs are judged."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_tucker.graph.elementwise import View
from onnx_tucker.graph.ends import chosen, joined
from onnx_tucker.graph.layer import probe
from onnx_tucker.graph.ops import OPS
from onnx_tucker.graph.segment import between, model_of
from onnx_tucker.graph.shapes import Shapes
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line, run_named

logger = logging.getLogger(__name__)

BY_VALUES = frozenset("Compress If Loop NonMaxSuppression NonZero Scan SequenceMap Unique".split())
"""Operators whose outputs are of a shape that depends on values, and not only on shapes."""

UNLIKE = 10
"""Times that the values of one part of an output are as large as those of another, from which on each counts alone."""


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
    """Those of the same that do not depend on the whole numbers and truths, each 0 or 1, of an input of noise."""
    other = {
        name: array if array.dtype.kind == "f" else (1 - array.astype(np.int8)).astype(array.dtype)
        for name, array in feed.items()
    }
    one, two = (shapes(model, folder, machine, values, names) for values in (feed, other))
    return {name: shape for name, shape in one.items() if two.get(name) == shape}


def parts(view: View, layers: Collection[str], folder: Path, machine: Machine, feed: Feed) -> dict[str, list[str]]:
    """The values with fractions that outputs are to be judged by in their place, by output.

    Of what is chosen from others, as by the suppression of boxes, those: it may be of another shape each time. Of what
    puts values together of which some are far larger than others, each: a detector's boxes, in pixels, are ten thousand
    times its scores, which no error relative to all of them would show.

    Args:
        view: the main graph.
        layers: what the nodes with weights give that may change.
        folder: what the model's external data is relative to.
        machine: what it is run on.
        feed: an input.
    """
    choices = chosen(view, layers)
    ends = {output.name: choices.get(output.name, [output.name]) for output in view.model.graph.output}
    inner = {value: joined(view, value) for values in ends.values() for value in values}
    if not choices and all(len(names) < 2 for names in inner.values()):
        return {}
    names = sorted({*inner, *(name for values in inner.values() for name in values)})
    try:
        values = run_named(machine.session(probe(view.model, names), folder), feed)
    except FAILURES as error:
        logger.info("parts of the outputs stay unknown: %s", first_line(error))
        return {}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    sizes = {name: _size(array) for name, array in arrays.items() if array.dtype.kind == "f"}
    sizes = {name: size for name, size in sizes.items() if size > 0}
    found = {}
    for output, before in ends.items():
        judged = [name for value in before if value in sizes for name in _unlike(value, inner[value], sizes)]
        if judged and judged != [output]:
            found[output] = judged
    return found


def _unlike(value: str, inner: Sequence[str], sizes: Mapping[str, float]) -> list[str]:
    """What a value puts together if that is of unlike sizes, else itself."""
    known = [name for name in inner if name in sizes]
    each = [sizes[name] for name in known]
    return known if len(known) > 1 and max(each) > UNLIKE * min(each) else [value]


def _size(array: NDArray[Any]) -> float:
    """The root mean square of the finite values of an array."""
    finite = array[np.isfinite(array)].astype(np.float64)
    return float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0
