"""The last linear nodes of a model, whose chains are fitted together when each has its own.

Each chain was fitted to what its own node gives, of which the nodes behind it may need little.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnx_tucker.factor import reconstruct
from onnx_tucker.factor.joint import Layer, outputs, refitted
from onnx_tucker.factor.sight import Sight
from onnx_tucker.fitting import classes
from onnx_tucker.fitting.obstacles import own_bias
from onnx_tucker.fitting.rows import Rows
from onnx_tucker.fitting.statistics import ROWS
from onnx_tucker.graph import behind
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.view import View
from onnx_tucker.types import Array, Chain

logger = logging.getLogger(__name__)

VALUES = 2**24
"""What any of them takes or gives is held up to so many values."""
CLOSE = 1e-3
"""How far off the outputs of the layers may be from those of the nodes, relative to the largest."""


Reader = Callable[[Found, int], Rows | None]
"""Gives rows of a node, at most so many, behind the chains so far."""


class Head:
    """The last linear nodes.

    Args:
        view: the graph.
        products: nodes that multiply vectors by a matrix and add a constant, or nothing, in order.
    """

    def __init__(self, view: View, products: Sequence[Found]) -> None:
        self._view = view
        self._sights = nodes(view, products)
        self._nodes, self._layers = list(self._sights), list[Layer]()
        self._first: Rows | None = None

    def __contains__(self, found: Found) -> bool:
        """Whether a node is one of them."""
        return found in self._sights

    def take(self, found: Found, chain: Chain | None, read: Reader) -> None:
        """Takes the chain that was made of the next of them; None where it stays as it is."""
        if not self._layers:
            self._first = read(found, self._most)
        free = chain is not None
        chain = chain or Chain((found.site.stage,), (found.site.read(),))
        bias = own_bias(found) if chain.bias is None else chain.bias
        chain = replace(chain, factors=tuple(factor.astype(np.float64) for factor in chain.factors), bias=bias)
        self._layers.append(Layer(chain, self._sights[found], free))

    def fitted(self, read: Reader) -> dict[str, Chain]:
        """What their chains become, by label, when all of them have been taken; empty where they stay as they are."""
        return {} if self._first is None else self._fit(self._nodes[-1], self._first, read)

    @property
    def _most(self) -> int:
        """Rows that are taken, of all nodes the same."""
        stages = [found.site.stage for found in self._nodes]
        widest = max(size for stage in stages for size in (stage.inp, stage.out))
        return max(1, min(ROWS, VALUES // widest, classes.MOST // stages[-1].out))

    def _fit(self, last: Found, first: Rows, read: Reader) -> dict[str, Chain]:
        rows = read(last, self._most)
        x = first.parts.reshape(len(first.half), -1).astype(np.float64)
        if rows is None or not np.array_equal(rows.half, first.half) or not self._same(rows, x):
            logger.info("the last layers are not fitted together, as their rows are not the same")
            return {}
        layers = refitted(self._layers, x, rows.wanted[0])
        if all(new is old for new, old in zip(layers, self._layers, strict=True)):
            return {}
        scores, chain = behind.scores(self._view, last.output, last.site.stage.out), layers[-1].chain
        if scores is not None and layers[-1].free and chain.bias is not None:
            parts = outputs(layers[:-1], x).reshape(rows.parts.shape).astype(rows.parts.dtype)
            layers[-1] = layers[-1]._replace(chain=classes.corrected(chain, replace(rows, parts=parts), scores))
        return {f.label: one.chain for f, one in zip(self._nodes, layers, strict=True) if one.free}

    def _same(self, rows: Rows, x: Array) -> bool:
        """Whether the layers make of what the first one takes what the last node gives."""
        made, chain = outputs(self._layers, x), self._layers[-1].chain
        given = np.concatenate([part[0] for _, _, part in rows.outputs(reconstruct(chain))])
        given = given if chain.bias is None else given + chain.bias
        return bool(np.abs(made - given).max() <= CLOSE * np.abs(given).max())


def nodes(view: View, linear: Sequence[Found]) -> dict[Found, Sight | None]:
    """The longest run of products at the end of the model of which each feeds the next one alone; none if it is of one.

    Args:
        view: the graph.
        linear: products with a matrix, in order.

    Returns:
        Them with what the next one sees of what they give; None where that is all.
    """
    shown = view.outputs()
    last = [f for f in linear if f.output in shown or behind.scores(view, f.output, f.site.stage.out)]
    before = {}
    for found in linear:
        sight, end = behind.seen(view, found.output, found.axis)
        if end not in shown and len(view.users.get(end, ())) == 1:
            before[end] = found, None if sight == Sight() else sight
    head: list[tuple[Found, Sight | None]] = [(found, None) for found in last[-1:]]
    while head and (value := head[0][0].input) in before:
        head.insert(0, before[value])
    return dict(head) if len(head) > 1 else {}
