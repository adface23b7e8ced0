"""How much errors of a node's outputs count at the model's outputs, by channel and between channels.

With g the derivatives of the model's outputs with respect to the channels of a position, an error e there changes the
outputs by g^T e, in the mean square by e^T G e with G = E g g^T. That is what chains are to keep small, rather than
e^T e. Hassibi and Stork, "Second order derivatives for network pruning", NIPS 1992, weigh errors of weights so, and
Kronecker-factored curvature is built of the same G: Martens and Grosse, ICML 2015.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from onnx_tucker.adjoints.backward import Backward
from onnx_tucker.factor.regression import shrinkage
from onnx_tucker.graph import behind
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.view import View
from onnx_tucker.runtime.batches import Batches, some
from onnx_tucker.runtime.inputs import divisible
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line
from onnx_tucker.types import Array

logger = logging.getLogger(__name__)

DRAWS, LEAST = 256, 4
"""Samples of which derivatives are taken, some of them several times for other sums of the outputs; and at least."""
HELD, MOST = 2**28, 2**30
"""Bytes of values that are held for them at the same time, as far as there are samples to be taken one by one; and of
one sample, from which on nothing is derived."""
WIDEST = 2048
"""Channels up to which they are told apart."""
EVEN, ALIKE = 0.1, 64
"""The least share of the identity in G, as derivatives do not say all; and positions that count as one, being
neighbours, where it is found out how far their number tells G."""


class Influences:
    """G of the outputs of all nodes, which is found out when it is first asked for.

    Args:
        view: the main graph.
        found: all weight-bearing nodes.
        ends: names of the values that models are judged by, which errors are to change little.
        batches: what the model is run on.
        session: of the model.
        machine: how sessions run.
        folder: what the model's external data is relative to.
        seed: of the sums of the outputs that are derived.
        most: samples that the model may be run on, but for `LEAST`.
        progress: is told what is being done, how many samples are done, and how many there are.
    """

    def __init__(
        self,
        view: View,
        found: Sequence[Found],
        ends: Sequence[str],
        batches: Batches,
        session: ort.InferenceSession,
        machine: Machine,
        folder: Path,
        seed: int,
        most: int,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._view, self._ends, self._batches, self._session = view, ends, batches, session
        self._machine, self._folder, self._seed, self._progress = machine, folder, seed, progress
        self._draws = max(LEAST, min(DRAWS, most))
        main = [one for one in found if one.place.scope.graph is view.model.graph]
        self._nodes = [o for o in main if o.is_site and o.site.stage.out <= WIDEST]

    def of_samples(self, batches: Batches, parts: int) -> Influences:
        """These by other samples, which are one of some parts that share the time for it."""
        other = copy.copy(self)
        other._batches, other._draws = batches, max(LEAST, self._draws // parts)
        vars(other).pop("_known", None)
        return other

    def of(self, found: Found) -> Array | None:
        """G of a node's outputs, together with those that share its weight.

        Returns:
            (groups, out, out) with a mean of 1 on the diagonal; None where it is not known.
        """
        return self.of_seen(found, found.output)

    def of_seen(self, found: Found, name: str) -> Array | None:
        """G of a value, of this name, that is what is seen of a node's outputs from behind; see `of`."""
        known, stage = self._known.get(name), found.site.stage
        if known is None or known.shape[:2] != (stage.groups, stage.out):  # or of another node that goes into it
            return None
        return known if found.place.scope.graph is self._view.model.graph else None

    @cached_property
    def _found(self) -> Mapping[str, Found]:
        """The values that G is of, with the node whose channels they have."""
        view, ends, values = self._view, self._view.outputs(), dict[str, Found]()
        summed = view.sums()
        for one in self._nodes:
            total, _ = summed.get(one.output, (one.output, ""))
            names = [one.output, *(behind.seen(view, name, one.axis)[1] for name in (one.output, total))]
            values |= {name: one for name in names if name not in ends}
        return values

    @cached_property
    def _known(self) -> Mapping[str, Array]:
        totals, rows = dict[str, Array](), dict[str, int]()
        signs = partial(_signs, np.random.default_rng(self._seed))
        if not self._found:
            return totals
        try:
            backward = Backward(self._view, self._machine, self._folder, self._found.keys(), self._ends)
            least = 1 if divisible(self._session, self._batches) else max(map(self._batches.batch, self._batches.feeds))
            sample = self._bytes_of_a_sample(backward)
            if least * sample > MOST:
                logger.info("the outputs are not derived: that would take %.3g GB", least * sample / 2**30)
                return totals
            done = 0
            for feed in self._feeds(max(1, int(HELD / (sample or 1))), whole=least > 1):
                samples = self._batches.batch(feed)
                for i, (name, change) in enumerate(backward.run(feed, signs)):
                    so_far = min(self._draws, done + samples * i // len(self._found))
                    self._progress("deriving the outputs", so_far, self._draws)
                    with np.errstate(all="ignore"):  # of samples that are not finite
                        squares = _squares(change, self._found[name])
                        if squares is not None:
                            totals[name] = totals[name] + squares if name in totals else squares
                            alike = change.size // change.shape[self._found[name].axis] // ALIKE
                            rows[name] = rows.get(name, 0) + max(alike, samples)
                done += samples
            self._progress("deriving the outputs", self._draws, self._draws)
        except (*FAILURES, LookupError) as error:
            logger.info("the outputs are not derived any further: %s", first_line(error))
        logger.info("influence on the outputs is known of %d of %d values", len(totals), len(self._found))
        return {name: _evened(total, rows[name]) for name, total in totals.items() if total.any()}

    def _bytes_of_a_sample(self, backward: Backward) -> float:
        """What all values that are needed take, as far as their shapes are known."""
        shapes = self._view.context.shapes
        sizes = [math.prod(shapes.get(name, ())) for name in backward.held]
        counted = [shapes[value.name][0] for value in self._view.model.graph.input if shapes.get(value.name)]
        return 4 * sum(sizes) / (max(counted, default=1) or 1)

    def _feeds(self, at_once: int, *, whole: bool) -> Iterator[Feed]:
        """Samples, again from the first one on when all were taken, until they are as many as are asked for.

        Args:
            at_once: how many of them.
            whole: whether the model takes no parts of batches.
        """
        done, along = 0, frozenset[str]() if whole else self._batches.along
        while True:
            for feed in self._batches.feeds:
                samples = self._batches.batch(feed)
                step = min(at_once, samples) if along else samples
                for start in range(0, samples, step):
                    size = min(step, samples - start, self._draws - done if along else step)
                    yield some(feed, along, slice(start, start + size)) if size < samples else feed
                    done += size
                    if done >= self._draws:
                        return


def _signs(rng: np.random.Generator, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Of each output a sum of its elements with random signs, relative to their size."""
    made = {}
    for name, output in outputs.items():
        known = np.isfinite(output)
        size = float(np.sqrt(np.square(output, dtype=np.float64).sum(where=known)))
        signs = rng.integers(0, 2, output.shape, np.int8).astype(np.float32)
        if size > 0:
            made[name] = np.where(known, (2 * signs - 1) / np.float32(size), np.float32(0))
    return made


def _squares(change: Array, found: Found) -> Array | None:
    """The sum of g g^T over positions, (groups, out, out); None where the channels are not where they should be."""
    stage = found.site.stage
    if not -change.ndim <= found.axis < change.ndim or change.shape[found.axis] != stage.groups * stage.out:
        return None
    rows = np.moveaxis(change, found.axis, -1).reshape(-1, stage.groups, stage.out)
    rows = rows[np.isfinite(rows).all(axis=(1, 2))].astype(np.float32, copy=False)
    squares = np.asarray(rows.transpose(1, 2, 0) @ rows.transpose(1, 0, 2), np.float64)
    return squares if np.isfinite(squares).all() else None


def _evened(total: Array, rows: int) -> Array:
    """G from such sums over so many rows: scaled, and drawn to the identity, the more the fewer they are."""
    width = total.shape[1]
    scaled = total / (float(np.einsum("gii->", total)) / (len(total) * width) or 1.0)
    evened = []
    for part in scaled:
        mean = float(part.trace()) / width
        even = max(EVEN, shrinkage(mean, float(np.square(part).sum()), width, rows))
        evened.append((1 - even) * part + even * np.eye(width))
    return np.array(evened)
