"""Linear layers one behind the other, fitted together to what the last one is to give.

What they miss is lowered by L-BFGS over the values of all their factors (Liu and Nocedal, "On the limited memory BFGS
method for large scale optimization", Mathematical Programming 45, 1989), as far as it brings samples closer that they
are not fitted to.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy

from onnx_tucker.factor.scaled import Scaled
from onnx_tucker.factor.sight import Sight
from onnx_tucker.types import Array, Chain

logger = logging.getLogger(__name__)

LEAST = 64
"""Samples without which nothing is fitted."""
APART = 5
"""One of so many rows, drawn at random, tells how many steps are good."""
STEPS, KEPT = 200, 20
"""Steps at most, and earlier ones that the curvature is known from."""
WORK, VALUE = 5e10, 40
"""Multiplications that all steps may take, and as how many of them each value counts that an activation takes."""
GAIN = 0.02
"""By what share the error has to fall on the samples kept apart."""


class Layer(NamedTuple):
    """One of them.

    Attributes:
        chain: its factors, each a matrix (out, in), and all that it adds, or None for nothing.
        sight: what the next one sees of its outputs, or None for all.
        free: whether its values may change.
    """

    chain: Chain
    sight: Sight | None
    free: bool

    @property
    def parts(self) -> list[Array]:
        """Its values that may change."""
        own = [*self.chain.factors, *(() if self.chain.bias is None else (self.chain.bias,))]
        return own if self.free else []

    def of(self, parts: Sequence[Array]) -> Layer:
        """The layer with other values of what may change, in the order of `parts`."""
        if not self.free:
            return self
        count = len(self.chain.factors)
        chain = replace(self.chain, factors=tuple(parts[:count]), bias=parts[count] if len(parts) > count else None)
        return self._replace(chain=chain)


def outputs(layers: Sequence[Layer], x: Array) -> Array:
    """What layers make of rows (rows, in): (rows, out)."""
    for one in layers:
        x = _seen(one, _raw(one, x)[-1])
    return x


def refitted(layers: Sequence[Layer], x: Array, wanted: Array) -> list[Layer]:
    """The layers with other values, or as they are where none are better.

    Args:
        layers: in order; nothing is left unseen of the last one's outputs.
        x: what the first one takes, (rows, in).
        wanted: what the last one is to give, (rows, out).
    """
    loss = _Loss(layers, x, wanted)
    steps = min(STEPS, int(WORK / (3 * len(x) * max(1, loss.work))))
    if len(x) < LEAST or not loss.start.size or steps < 1:
        return list(layers)
    before = least = loss.apart(loss.start)
    best = loss.start

    def watch(values: Array) -> None:
        nonlocal best, least
        missed = loss.apart(values)
        if missed < least:
            best, least = values.copy(), missed

    options = {"maxiter": steps, "maxcor": KEPT}
    scipy.optimize.minimize(loss, loss.start, method="L-BFGS-B", jac=True, options=options, callback=watch)
    logger.info("the last %d layers together: %.4g of the outputs is missed, %.4g before", len(layers), least, before)
    return loss.layers(best) if least <= (1 - GAIN) * before else list(layers)


class _Loss:
    """The share of the energy of the wanted outputs, about their mean, that layers miss, by all their values.

    Attributes:
        start: the values there.
        work: multiplications for a row.
    """

    def __init__(self, layers: Sequence[Layer], x: Array, wanted: Array) -> None:
        self._layers = layers
        apart = np.random.default_rng(0).permutation(len(x)) % APART == APART - 1
        self._fit, self._check = ((x[rows], wanted[rows]) for rows in (~apart, apart))
        self._energy = [_energy(part - wanted.mean(0)) or 1.0 for part in (self._fit[1], self._check[1])]
        parts = [part for one in layers for part in one.parts]
        self._scaled = Scaled(parts)
        self.start = self._scaled.start
        self.work = sum(factor.size + VALUE * len(factor) for one in layers for factor in one.chain.factors)

    def __call__(self, values: Array) -> tuple[float, Array]:
        """The loss on the samples that are fitted to, and its derivatives."""
        layers, (x, wanted) = self.layers(values), self._fit
        raws = []
        for one in layers:
            raws.append(_raw(one, x))
            x = _seen(one, raws[-1][-1])
        change = x - wanted
        lost, found = _energy(change), list[Array]()
        for one, raw in zip(reversed(layers), reversed(raws), strict=True):
            change = _unseen(one, raw[-1], change)
            bias = [] if one.chain.bias is None else [change.sum(0)]
            factors = list[Array]()
            for factor, taken in zip(reversed(one.chain.factors), reversed(raw[:-1]), strict=True):
                factors.insert(0, change.T @ taken)
                change = change @ factor
            found = [*factors, *bias, *found] if one.free else found
        return lost / self._energy[0], self._scaled.derivatives(found) * (2 / self._energy[0])

    def apart(self, values: Array) -> float:
        """The loss on the samples kept apart."""
        x, wanted = self._check
        return _energy(outputs(self.layers(values), x) - wanted) / self._energy[1]

    def layers(self, values: Array) -> list[Layer]:
        """The layers with these values."""
        parts = iter(self._scaled.parts(values))
        return [one.of([next(parts) for _ in one.parts]) for one in self._layers]


def _raw(one: Layer, x: Array) -> list[Array]:
    """Rows, what each factor makes of them, and last with the bias."""
    made = [x]
    for factor in one.chain.factors:
        made.append(made[-1] @ factor.T)
    if one.chain.bias is not None:
        made[-1] = made[-1] + one.chain.bias
    return made


def _seen(one: Layer, y: Array) -> Array:
    """What is seen of outputs (rows, out)."""
    return y if one.sight is None else one.sight.of(one.sight.normalised(y[None])[0, :, None])


def _unseen(one: Layer, y: Array, change: Array) -> Array:
    """The derivative of a function with respect to outputs, from what it is with respect to what is seen of them."""
    sight = one.sight
    if sight is None:
        return change
    change = sight.derivative(sight.normalised(y[None])[0, :, None], change)[:, 0]
    return change if sight.affine is None else sight.affine.scaled(change[None])[0]


def _energy(values: Array) -> float:
    return float(np.square(values).sum())
