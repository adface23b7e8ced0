"""What is read off a run: shapes that inference does not find, and by which values outputs are judged."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

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

UNLIKE, ROUNDING = 10, 1e-7
"""Times that the values of one part of an output are as large as those of another, from which on each counts alone; and
the share of the largest up to which one is but rounding."""
LOOKED_AT = 8
"""Inputs, or batches of them, by which it is seen how large values are."""


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


def parts(
    view: View, layers: Collection[str], folder: Path, machine: Machine, feeds: Sequence[Feed]
) -> dict[str, list[str]]:
    """The values with fractions that outputs are to be judged by in their place, by output.

    Of what is chosen from others, as by the suppression of boxes, those: it may be of another shape each time. Of what
    puts values together of which some are far larger than others, each: a detector's boxes, in pixels, are ten thousand
    times its scores, which no error relative to all of them would show. Values that are not finite, or nothing but
    zeros and rounding, judge nothing.

    Args:
        view: the main graph.
        layers: what the nodes with weights give that may change.
        folder: what the model's external data is relative to.
        machine: what it is run on.
        feeds: inputs, of which the first are looked at.
    """
    choices = chosen(view, layers)
    ends = {output.name: choices.get(output.name, [output.name]) for output in view.model.graph.output}
    inner = {value: joined(view, value) for values in ends.values() for value in values}
    if not choices and all(len(names) < 2 for names in inner.values()):
        return {}
    names = sorted({*inner, *(name for values in inner.values() for name in values)})
    try:
        session = machine.session(probe(view.model, names), folder)
        sizes = _sizes([run_named(session, feed) for feed in feeds[:LOOKED_AT]])
    except FAILURES as error:
        logger.info("parts of the outputs stay unknown: %s", first_line(error))
        return {}
    found = {}
    for output, before in ends.items():
        judged = [name for value in before for name in _unlike(value, inner[value], sizes) if name in sizes]
        if judged and judged != [output]:
            found[output] = [*dict.fromkeys(judged)]
    return found


def _sizes(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The root mean squares of values with fractions, all of which are finite, and not all zero."""
    found = {}
    for name in runs[0]:
        arrays = [values[name] for values in runs]
        if all(isinstance(array, np.ndarray) and array.dtype.kind == "f" for array in arrays):
            flat = np.concatenate([array.ravel() for array in arrays]).astype(np.float64)
            if flat.size and np.isfinite(flat).all() and flat.any():
                found[name] = float(np.sqrt(np.mean(np.square(flat))))
    return found


def _unlike(value: str, inner: Sequence[str], sizes: Mapping[str, float]) -> list[str]:
    """What a value puts together if that is of unlike sizes, else itself."""
    largest = max((sizes[name] for name in inner if name in sizes), default=0.0)
    known = [name for name in inner if sizes.get(name, 0.0) > ROUNDING * largest]
    return known if len(known) > 1 and largest > UNLIKE * min(sizes[name] for name in known) else [value]
