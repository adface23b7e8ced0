"""Chains fitted to what is seen of their outputs from behind an activation.

What is missed there is no quadratic function of the factors. It is lowered over all of them at once by L-BFGS (Liu and
Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical Programming 45, 1989), which
takes a pass over the rows for a step, and few steps where it is told how the loss curves at the start. How strongly
weights are drawn to where they start, one half of the samples says of the other. Zhang, Zou, He and Sun, "Accelerating
Very Deep Convolutional Networks for Classification and Detection", TPAMI 2016, section 3.2, have the same aim and
alternate between outputs and factors.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy

from onnx_tucker.factor import METHODS, patches, reconstruct
from onnx_tucker.factor.axes import Axes
from onnx_tucker.factor.preconditioner import PROBES, Preconditioner
from onnx_tucker.factor.sight import Sight
from onnx_tucker.rows import Rows
from onnx_tucker.types import Array, Candidate, Chain, Site

logger = logging.getLogger(__name__)

STEPS = 20
"""Steps of a descent at most, unless fewer are asked for."""
KEPT = 20
"""Earlier steps that the curvature is known from."""
ENOUGH = 1e-4
"""Steps end when one lowers the loss by less than this share of the energy, and none are taken where less is missed."""
RIDGES = (100.0, 10.0, 1.0, 0.1, 0.01)
"""How strongly weights are drawn to where they start, in as much as outputs do: the weakest that does good is taken."""
ROWS = 2000
"""Of each half of the samples, of which one says so of the other, rows at most."""
TRIED = 5
"""Steps with each of them."""
DRAWS = 8
"""Draws that say how a ridge curves."""


class Task(NamedTuple):
    """What is to be fitted.

    Attributes:
        site: the node.
        candidate: what it becomes.
        sight: what is seen of its outputs.
        influence: how much errors of that count, (groups, out, out); None for all alike and each by itself.
    """

    site: Site
    candidate: Candidate
    sight: Sight
    influence: Array | None = None


def refitted(task: Task, chain: Chain, rows: Rows, steps: int = STEPS) -> Chain:
    """The chain that misses less of what is seen than a given one does.

    Args:
        task: what is fitted.
        chain: where to start; its bias is all that the node adds.
        rows: of the node.
        steps: how many are taken at most.
    """
    wanted = _Wanted(task, rows)
    if wanted.missed(chain) < ENOUGH:
        return chain
    ridge = _ridge(task, chain, rows)
    made, missed = _descended(_Loss(wanted, chain, chain, ridge), steps)
    logger.info("%s: misses %.3g of what is seen, drawn by %.3g rows", task.site.name, missed, ridge)
    return made


def _ridge(task: Task, chain: Chain, rows: Rows) -> float:
    """How strongly a chain's weight is to be drawn to what it is, so that the chain of one half suits the other.

    Returns:
        Rows that say the same, each of as much energy as the others in the mean.
    """
    halves = [rows.among(half, ROWS * rows.size) for half in (0, 1)]
    unit = halves[0].wanted.shape[1]
    if not all(len(half.parts) for half in halves):
        return float(RIDGES[0] * rows.wanted.shape[1])
    fit, check = (_Wanted(task, half) for half in halves)
    best, least, made = RIDGES[0], math.inf, chain
    for ridge in RIDGES:
        made, _ = _descended(_Loss(fit, chain, made, ridge * unit), TRIED)
        missed = check.missed(made)
        if missed >= least:
            break
        best, least = ridge, missed
    return float(best * unit)


def _descended(loss: _Loss, steps: int) -> tuple[Chain, float]:
    """The chain that a loss is least of, as far as so many steps tell, and the loss."""
    options = {"maxiter": steps, "maxcor": KEPT, "ftol": ENOUGH, "gtol": 0.0}
    found = scipy.optimize.minimize(loss, loss.start, method="L-BFGS-B", jac=True, options=options)
    return loss.chain(found.x), float(found.fun)


class _Wanted:
    """What is to be seen of rows, and how much of it chains miss.

    Args:
        task: what is fitted.
        rows: of the node.
    """

    def __init__(self, task: Task, rows: Rows) -> None:
        self.task, self.rows = task, rows
        wanted = self.windows(task.sight.normalised(rows.wanted))
        self.share = task.sight.shown(wanted) / (wanted.size or 1)
        self._wanted = task.sight.of(wanted)
        centred = self._wanted - self._wanted.mean(1, keepdims=True)
        self.energy = _energy(centred, self.felt(centred)) or 1.0

    def missed(self, chain: Chain) -> float:
        """The share of the energy, about the mean, that a chain misses."""
        return sum(_energy(missed, self.felt(missed)) for _, _, missed in self.errors(chain)) / self.energy

    def errors(self, chain: Chain) -> Iterator[tuple[Array, Array, Array]]:
        """The parts that rows see, what a chain gives there, normalised, by windows, and what is missed of it.

        Of the shapes (groups, parts, in * reach), (groups, windows, rows of one, out) and (groups, windows, out).
        """
        size = self.rows.size
        for part, seen, outputs in self.rows.outputs(reconstruct(chain)):
            if chain.bias is not None:
                outputs += chain.bias.reshape(len(outputs), 1, -1).astype(outputs.dtype)
            windows = self.windows(self.task.sight.normalised(outputs))
            yield seen, windows, self.task.sight.of(windows) - self._wanted[:, part.start // size : part.stop // size]

    def felt(self, missed: Array) -> Array:
        """Errors (groups, any, out) multiplied by how much they count."""
        influence = self.task.influence
        return missed if influence is None else missed @ influence.astype(missed.dtype)

    def rooted(self, signs: Array) -> Array:
        """Signs of the same shape multiplied by a root of that."""
        influence = self.task.influence
        if influence is None:
            return signs
        values, vectors = np.linalg.eigh(influence)
        roots = np.sqrt(np.maximum(values, 0))[..., None] * vectors.swapaxes(1, 2)
        return np.asarray(signs @ roots.astype(signs.dtype))

    def windows(self, outputs: Array) -> Array:
        """Outputs (groups, rows, out) as (groups, windows, rows of one, out)."""
        groups, _, out = outputs.shape
        return outputs.reshape(groups, -1, self.task.sight.size, out)


class _Loss:
    """What a chain misses, and how far its weight is from that of the first one, by the values of its factors.

    Args:
        wanted: what is to be seen.
        first: the first chain.
        chain: where to start.
        ridge: how strongly weights are drawn, in rows.

    Attributes:
        start: the coordinates there.
    """

    def __init__(self, wanted: _Wanted, first: Chain, chain: Chain, ridge: float) -> None:
        self._wanted, self._chain = wanted, chain
        candidate, self._stage = wanted.task.candidate, wanted.task.site.stage
        self._first, rows = self._weight(first), wanted.rows
        self._ridge = ridge * wanted.share * float(np.square(rows.parts, dtype=np.float64).mean())
        self._axes = Axes(METHODS[candidate.method or ""], self._stage, candidate.ranks or ())
        parts = [*chain.factors, *(() if chain.bias is None else (chain.bias,))]
        self._coordinates = Preconditioner(parts, self._probes())
        self.start = self._coordinates.start

    def __call__(self, coordinates: Array) -> tuple[float, Array]:
        """The loss, and its derivatives."""
        chain, wanted, stage = self.chain(coordinates), self._wanted, self._stage
        moved = (self._weight(chain) - self._first).swapaxes(1, 2)
        drawn = self._ridge * wanted.felt(moved)
        lost, weight, bias = _energy(moved, drawn), drawn.swapaxes(1, 2), np.zeros((stage.groups, stage.out))
        for seen, windows, missed in wanted.errors(chain):
            felt = wanted.felt(missed)
            lost += _energy(missed, felt)
            by_weight, by_bias = self._back(seen, wanted.task.sight.derivative(windows, felt))
            weight += by_weight
            bias += by_bias
        parts = self._by_part(chain, weight, bias)
        return lost / wanted.energy, self._coordinates.derivatives(parts) * (2 / wanted.energy)

    def chain(self, coordinates: Array) -> Chain:
        """The chain there."""
        parts = self._coordinates.parts(coordinates)
        bias = None if self._chain.bias is None else parts.pop()
        return Chain(self._chain.stages, tuple(parts), bias)

    def _probes(self) -> Iterator[list[Array]]:
        """Derivatives at the start of what the loss is a sum of squares of, see `Preconditioner`."""
        rng, wanted, chain = np.random.default_rng(0), self._wanted, self._chain
        unit = math.sqrt(2 / wanted.energy)

        def signs(*shape: int) -> Array:
            return unit * wanted.rooted(rng.choice((-1, 1), shape).astype(np.float32))

        for seen, windows, missed in wanted.errors(chain):
            parts = seen.shape[1]
            change = wanted.task.sight.derivative(windows, signs(*missed.shape)).reshape(len(seen), parts, -1)
            cuts = np.linspace(0, parts, math.ceil(PROBES * parts / len(wanted.rows.parts)) + 1).astype(int)
            for first, end in itertools.pairwise(np.unique(cuts)):
                yield self._by_part(chain, *self._back(seen[:, first:end], change[:, first:end]))
        weight, groups = self._first, len(self._first)
        for _ in range(DRAWS):
            drawn = math.sqrt(self._ridge / DRAWS) * signs(groups, weight.shape[2], weight.shape[1]).swapaxes(1, 2)
            yield self._by_part(chain, drawn, np.zeros(weight.shape[:2]))

    def _back(self, seen: Array, change: Array) -> tuple[Array, Array]:
        """The derivatives by the weight, (groups, out, in * volume), and the bias, (groups, out).

        Args:
            seen: the parts that rows see, (groups, parts, in * reach).
            change: the derivatives by what is given there, normalised, (groups, ..., out).
        """
        affine = self._wanted.task.sight.affine
        change = change.reshape(len(seen), -1, self._stage.out)
        change = change if affine is None else affine.scaled(change)
        spread = change.reshape(*seen.shape[:2], -1).swapaxes(1, 2) @ seen
        return patches.gathered(self._wanted.rows.stage, spread, self._wanted.rows.parts.shape[2:]), change.sum(
            1, dtype=np.float64
        )

    def _by_part(self, chain: Chain, weight: Array, bias: Array) -> list[Array]:
        """The derivatives by the factors of a chain and its bias, if it has one."""
        groups = zip(*(np.split(factor, self._stage.groups) for factor in chain.factors), strict=True)
        named = [self._axes.named(parts) for parts in groups]
        found = [self._axes.shaped(self._axes.derivatives(*pair)) for pair in zip(named, weight, strict=True)]
        return [*map(np.concatenate, zip(*found, strict=True)), *(() if chain.bias is None else (bias,))]

    def _weight(self, chain: Chain) -> Array:
        """That of a chain, (groups, out, in * volume)."""
        return np.asarray(reconstruct(chain)).reshape(self._stage.groups, self._stage.out, -1)


def _energy(values: Array, others: Array) -> float:
    return float((values * others).sum(dtype=np.float64))
