"""The values that models are judged by while they are searched for: outputs, or what these follow from."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnx_tucker.graph.ends import chosen, joined, scores
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.segment import probe
from onnx_tucker.graph.view import View
from onnx_tucker.runtime.reference import Reference
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line, run_named

logger = logging.getLogger(__name__)

UNLIKE, ROUNDING = 10, 1e-7
"""Times that the values of one part of an output are as large as those of another, from which on each counts alone; and
the share of the largest up to which one is but rounding."""
MASKED = 1e3
"""Root mean square of scores from which on they hold masks, as the -1e4 of classes that are ruled out: errors relative
to such scores say nothing, so that they do not judge."""
LOOKED_AT = 8
"""Inputs, or batches of them, by which it is seen how large values are."""


def judged(
    reference: Reference, view: View, found: Sequence[Found], feeds: Sequence[Feed], machine: Machine, folder: Path
) -> Reference:
    """What models are judged by on data.

    Args:
        reference: the outputs of the original.
        view: its main graph.
        found: all weight-bearing nodes.
        feeds: the data.
        machine: how sessions run.
        folder: what the model's external data is relative to.

    Returns:
        The reference itself where outputs judge; else what they follow from.
    """
    sites = [one for one in found if one.is_site]
    main = all(one.place.scope.graph is view.model.graph for one in sites)
    layers = [one.output for one in sites] if main else []  # what bodies make is not followed
    parts = _parts(view, layers, folder, machine, feeds)
    if not parts:
        return reference
    names = dict.fromkeys(name for output in reference.names for name in parts.get(output, [output]))
    return Reference(machine.session(probe(view.model, names), folder), feeds, parts)


def _parts(
    view: View, layers: Collection[str], folder: Path, machine: Machine, feeds: Sequence[Feed]
) -> dict[str, list[str]]:
    """The values with fractions that outputs are to be judged by in their place, by output.

    Of what is chosen from others, as by the suppression of boxes, those: it may be of another shape each time. Of what
    puts values together of which some are far larger than others, each: a detector's boxes, in pixels, are ten thousand
    times its scores, which no error relative to all of them would show. Of other probabilities what these are the
    Softmax of, too: where they are near 0 and 1, few samples show no error until a class is another one, and gradients
    vanish; but scores alone may differ by what changes no probability. Values that are not finite, or nothing but zeros
    and rounding, judge nothing.

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
    told = {output: name for output in sorted(view.outputs()) if (name := scores(view, output)) is not None}
    if not choices and not told and all(len(names) < 2 for names in inner.values()):
        return {}
    names = sorted({*inner, *told.values(), *(name for values in inner.values() for name in values)})
    try:
        session = machine.session(probe(view.model, names), folder)
        sizes = _sizes(run_named(session, feed) for feed in feeds[:LOOKED_AT])
    except FAILURES as error:
        logger.info("parts of the outputs stay unknown: %s", first_line(error))
        return {}
    found = {output: [output, name] for output, name in told.items() if sizes.get(name, math.inf) < MASKED}
    for output, values in ends.items():
        judged = [name for value in values for name in _unlike(value, inner[value], sizes) if name in sizes]
        if judged and judged != [output]:
            found[output] = [*dict.fromkeys(judged)]
    return found


def _sizes(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The root mean squares of values with fractions, all of which are finite, and not all zero."""
    squares, counts = dict[str, float](), Counter[str]()
    for values in runs:
        for name, value in values.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                flat = value.ravel()
                total = float(np.einsum("i,i->", flat, flat, dtype=np.float64))  # which makes no copy of that type
                squares[name] = squares.get(name, 0.0) + total
                counts[name] += flat.size
    sizes = {name: math.sqrt(total / max(counts[name], 1)) for name, total in squares.items() if total >= 0}
    return {name: size for name, size in sizes.items() if 0 < size < math.inf}


def _unlike(value: str, inner: Sequence[str], sizes: Mapping[str, float]) -> list[str]:
    """What a value puts together if that is of unlike sizes, else itself."""
    largest = max((sizes[name] for name in inner if name in sizes), default=0.0)
    known = [name for name in inner if sizes.get(name, 0.0) > ROUNDING * largest]
    return known if len(known) > 1 and largest > UNLIKE * min(sizes[name] for name in known) else [value]
