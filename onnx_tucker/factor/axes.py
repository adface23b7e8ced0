"""The factors of one group of a layer as tensors in Einstein's notation: their product, and its derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from onnx_tucker.factor.method import Method
from onnx_tucker.types import Array, Ranks, Stage

Item = TypeVar("Item")


class Axes:
    """The axes that a method gives the factors of a layer, by the letters of its terms.

    Args:
        method: the decomposition.
        stage: the layer as the only stage of a chain; one of its groups is meant.
        ranks: one for each of the method's modes.

    Attributes:
        terms: the axes of each factor.
        whole: those of the weight.
        sizes: of each axis.
    """

    def __init__(self, method: Method, stage: Stage, ranks: Ranks) -> None:
        volume, first = stage.window.volume, (stage.window.kernel or (1,))[0]
        self.sizes = {"o": stage.out, "i": stage.inp, "k": volume, "t": first, "l": volume // first}
        self.sizes |= dict(zip(method.letters, ranks, strict=True))
        self.terms = method.terms
        self.whole = "oitl" if any("t" in term for term in self.terms) else "oik"
        self._shapes = [part.shape for part in method.stages(replace(stage, groups=1), ranks)]

    def named(self, factors: Sequence[Array]) -> list[Array]:
        """Weights of the stages as tensors with the axes of the terms."""
        return [f.reshape([self.sizes[c] for c in term]) for f, term in zip(factors, self.terms, strict=True)]

    def shaped(self, named: Sequence[Array]) -> tuple[Array, ...]:
        """The factors in the shapes that the stages store."""
        return tuple(np.ascontiguousarray(f).reshape(shape) for f, shape in zip(named, self._shapes, strict=True))

    def weight(self, named: Sequence[Array]) -> Array:
        """The weight (out, in, volume) that factors amount to."""
        return product(self.terms, named, self.whole).reshape(self.sizes["o"], self.sizes["i"], self.sizes["k"])

    def derivatives(self, named: Sequence[Array], change: Array) -> list[Array]:
        """Of a function of the weight, those with respect to each factor.

        Args:
            named: the factors.
            change: the derivative with respect to the weight, (out, in * volume).
        """
        shaped = change.reshape([self.sizes[c] for c in self.whole])
        return [derivative(self.terms, named, i, self.whole, shaped) for i in range(len(named))]


FEW = 4
"""Factors up to which the best order of a product is looked for; of more, a good one."""


def derivative(terms: Sequence[str], factors: Sequence[Array], number: int, whole: str, change: Array) -> Array:
    """Of a function of a product of factors, the derivative with respect to one of them.

    Args:
        terms: the axes of each factor.
        factors: of those shapes.
        number: which of them.
        whole: the axes of the product.
        change: the derivative with respect to the product.
    """
    return product([whole, *but(terms, number)], [change, *but(factors, number)], terms[number])


def but(items: Sequence[Item], number: int) -> list[Item]:
    """All but one of them."""
    return [item for i, item in enumerate(items) if i != number]


def product(terms: Sequence[str], arrays: Sequence[Array], target: str) -> Array:
    """Einstein's sum, in an order that takes little work."""
    order = "optimal" if len(terms) <= FEW else "greedy"
    return np.asarray(np.einsum(f"{','.join(terms)}->{target}", *arrays, optimize=order))
