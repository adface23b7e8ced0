"""Chains fitted to data, node after node: each makes up for what the ones before it have changed.

A node's chain is fitted to what the original node gives for the original's input, from the input that the factorised
nodes before it give ("asymmetric": Zhang, Zou, He and Sun, "Accelerating Very Deep Convolutional Networks for
Classification and Detection", TPAMI 2016, section 3.3). Activations are read off the models batch by batch, at
positions drawn at random, and only their moments are kept.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import repeat

import numpy as np

from onnx_tucker.factor import reconstruct
from onnx_tucker.factor.fit import ROUNDS
from onnx_tucker.factor.regression import Statistics
from onnx_tucker.factor.ridge import RIDGES, agreement
from onnx_tucker.factor.samples import joined
from onnx_tucker.fitting import activation, classes, statistics, trust
from onnx_tucker.fitting.calibrate import decomposed, felt
from onnx_tucker.fitting.head import Head
from onnx_tucker.fitting.obstacles import movable, obstacle, own_bias
from onnx_tucker.fitting.rows import Flow, Rows, known_rows, seen_rows
from onnx_tucker.fitting.trust import Trust, Trusts
from onnx_tucker.fitting.walk import Walk
from onnx_tucker.graph import behind
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.segment import between
from onnx_tucker.job import ROUGH_ROWS, Job
from onnx_tucker.planning.groups import holders, shared
from onnx_tucker.runtime.held import Held
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.types import Array, Basis, Candidate, Chain

logger = logging.getLogger(__name__)

ROUGH_ROUNDS, ROUGH_STEPS, ROUGH_RIDGES = 1, 10, RIDGES[::2]
"""How often the factors of a rough pass are refitted, how many steps they take towards what is seen behind an
activation, and the pulls of trained weights that it tries. Four rounds led to the same models of a detector and of a
network that reads text, byte for byte, and took up to half as much time again.
"""
SEEN_ROWS = 20_000
"""Rows that a chain is fitted to what is seen of. Twice as many make a residual network of images no closer (.2436 of
its outputs for .2419) and take twice as long, half of the time of some runs.
"""


class Fitting:
    """One pass over the nodes of a model, each fitted behind those before it.

    Where a node's output is added to something else, it makes up for what that has lost too: it is fitted to the
    original's sum less what the factorised nodes add (He, Zhang and Sun, "Channel Pruning for Accelerating Very Deep
    Neural Networks", ICCV 2017, section 3.2).

    A chain follows from what the nodes before it become. Passes that begin alike share their first chains, and what
    nodes are to give. A pass whose chains may be written shares nothing: what is known already changes the pieces in
    which models are run, and with these how they round, so that the result would depend on what was tried before.

    Args:
        job: the run, with data.
        planned: what nodes become, by label; those that only stay or change their form may be refitted.
        basis: what chains are fitted to; not the weights.
        rough: whether fewer samples, positions and rounds are enough.
        trusts: how far the data of nodes is trusted, if that is not found out anew.
    """

    def __init__(
        self, job: Job, planned: Mapping[str, Candidate], basis: Basis, *, rough: bool, trusts: Trusts | None = None
    ) -> None:
        self._view, self._planned = job.view, planned
        if not rough and trusts is None:
            job = replace(job, wanted=Held(0), chains=Held(0))
        self._job = job
        self._seen, self._influential = "activations" in basis, "influence" in basis
        self._seen_counts = basis == "influence on activations"
        self._positions, self._rounds, self._steps = statistics.ROWS, ROUNDS, activation.STEPS
        self._ridges: Sequence[float] = RIDGES
        self._rough, self._trusts = rough, trusts
        if rough:
            self._positions, self._rounds, self._steps = ROUGH_ROWS, ROUGH_ROUNDS, ROUGH_STEPS
            self._ridges = ROUGH_RIDGES
        assert job.inputs is not None
        feeds = job.inputs.fit.feeds
        self._original, self._factorised = Walk(job, feeds), Walk(job, feeds)
        self._nodes, self._changed, self._few = list(job.model.graph.node), False, trust.few(job)
        self._sums = self._view.sums()
        self._ahead = {f.place.node.output[0] for f in job.found if f.label in planned}
        products = [f for f in job.found if f.label in planned and self._is_product(f)]
        self._path = hashlib.sha256(repr((basis, rough, trusts and trusts.key, sorted(planned))).encode())
        self._head = Head(self._view, [] if self._few else products)

    def chains(self, leaders: Iterable[Found]) -> Iterator[tuple[Found, Chain | None]]:
        """The chains of the nodes that are planned; of the last linear ones when all of those have theirs.

        Args:
            leaders: the nodes in the order of the graph, of those that share a weight the first.

        Yields:
            A node and its chain; None where it stays as it is, as nothing before it is changed or its weight cannot
            make up for that.
        """
        last = dict[Found, Chain | None]()
        for found in leaders:
            chain = self._fitted(found)
            if found in self._head:
                last[found] = chain
            else:
                yield found, chain
        together = self._head.fitted(self._rows)
        for found, chain in last.items():
            yield found, together.get(found.label, chain)

    def target(self, found: Found) -> str:
        """See `rows.Flows`."""
        return self._sum(found.output)[0]

    def rows(self, found: Found, *, known: bool) -> Iterator[Flow]:
        """See `rows.Flows`."""
        x = found.input
        total, other = self._sum(found.output)
        names, given = [x, other] if other else [x], [] if known else [total]
        flow: Iterable[tuple[Mapping[str, Array], Array | None]]
        if shared(self._job, found) and self._is_open(x):  # as its weight is that of one before
            flow = ((values, values.get(total)) for values in self._original.read([*names, *given]))
        else:
            wanted = (values[total] for values in self._original.read(given)) if given else repeat(None)
            flow = zip(self._factorised.read(names), wanted, strict=not known)
        for now, y in flow:
            added = now[other] if other else None
            if added is not None and len(added) == 1:  # it may be the same for all samples
                added = np.broadcast_to(added, (len(now[x]), *added.shape[1:]))
            yield Flow(now[x], y, added)

    def _sum(self, y: str) -> tuple[str, str]:
        """The sum that an output goes into, and the other part of it, if nothing of that is still to be factorised."""
        total, other = self._sums.get(y, (y, ""))
        shapes = [self._job.context.shapes.get(name) for name in (total, other, y)]
        open_ = bool(other) and self._is_open(other)
        return (y, "") if open_ or shapes[0] is None or shapes != shapes[:1] * 3 else (total, other)

    def _is_open(self, value: str) -> bool:
        """Whether something of a value is still to be factorised."""
        return any(not self._ahead.isdisjoint(node.output) for node in between(self._nodes, (), [value]))

    def _fitted(self, found: Found) -> Chain | None:
        """The chain of the next node; None where it stays as it is."""
        candidate = self._planned[found.label]
        group = holders(self._job, found)
        self._path.update(repr((found.label, candidate.method, candidate.ranks)).encode())
        chain = self._known(self._path.hexdigest(), found, candidate)
        self._ahead -= {one.place.node.output[0] for one in group}
        if found in self._head:
            self._head.take(found, chain, self._rows)
        if chain is None:
            return decomposed(found.site.read(), found.site.stage, candidate) if candidate.changes else None
        for one in group:
            self._factorised.replace(one, candidate, chain)
        self._changed = True
        return chain

    def _known(self, key: str, found: Found, candidate: Candidate) -> Chain | None:
        """See `_made`; what an earlier pass has made is taken from there."""
        held = self._job.chains.get(key)
        if held is None:
            chain = self._made(found, candidate)
            held = (chain,)
            self._job.chains.keep(key, held, sum(f.nbytes for f in chain.factors) if chain else 0)
        return held[0]

    def _made(self, found: Found, candidate: Candidate) -> Chain | None:
        """A node's chain, by its weight alone where it cannot be fitted; None where its weight is to stay."""
        site = found.site
        if candidate.method is None and (found.skipped or not self._changed):
            return None
        halves = known_rows(self._read_for(found), found, self, self._positions)
        if not isinstance(halves, str) and not min(half.rows for half in halves):
            halves = "half of the data gives it no finite position"
        if isinstance(halves, str):
            logger.info("%s is not fitted: %s", site.name, halves)
            return decomposed(site.read(), site.stage, candidate) if candidate.method else None
        known = joined(*halves)
        trusted = self._trusted(found, candidate, halves)
        scores = self._scores(found) if trusted.means and not self._few else None
        if candidate.method is None and trusted.ridge == RIDGES[0] and scores is None:
            return None
        goals_ = trusted.goals(site, known)
        goals_ = felt(self._job, found, goals_) if self._influential else goals_
        chain = trust.fitted(site, candidate, goals_, self._rounds)
        shrink = "by their number" if trusted.shrink is None else f"{trusted.shrink:g}"
        logger.info("%s: fitted to %d rows, ridge %g, shrunk %s", site.name, known.rows, trusted.ridge, shrink)
        if trusted.means:
            chain = replace(chain, bias=_bias(found, halves, known, reconstruct(chain)))
        if self._seen and candidate.method and not shared(self._job, found):
            chain = self._refitted(found, candidate, chain)
        return chain if scores is None else self._corrected(found, chain, scores)

    def _is_product(self, found: Found) -> bool:
        """Whether a node multiplies vectors by a matrix, and nothing is added to them but a constant."""
        stage = found.site.stage
        return not (stage.window.kernel or stage.groups > 1 or obstacle(self._job, found) or self._sum(found.output)[1])

    def _scores(self, found: Found) -> behind.Scores | None:
        """What a node's outputs tell by their scores; None where they are none."""
        stage, total = found.site.stage, self.target(found)
        return behind.scores(self._view, total, stage.groups * stage.out)

    def _corrected(self, found: Found, chain: Chain, scores: behind.Scores) -> Chain:
        """A chain whose bias gives each class its probability in the mean."""
        stage = found.site.stage
        rows = self._rows(found, min(self._positions, max(classes.MOST // (stage.groups * stage.out), 1)))
        return chain if rows is None else classes.corrected(chain, rows, scores)

    def _refitted(self, found: Found, candidate: Candidate, chain: Chain) -> Chain:
        """A chain fitted to what is seen of its outputs, if that is not all of them."""
        total, _ = self._sum(found.output)
        sight, value = behind.seen(self._view, total, found.axis)
        if sight.whole:
            return chain
        rows = self._rows(found, min(self._positions, SEEN_ROWS), sight.window)
        if rows is None:
            return chain
        own = own_bias(found)
        chain = chain if own is None or chain.bias is not None else replace(chain, bias=own)
        known = self._job.influences if self._seen_counts else None
        influence = known.of_seen(found, value) if known is not None else None
        task = activation.Task(found.site, candidate, sight, influence)
        return activation.refitted(task, chain, rows, self._steps)

    def _read_for(self, found: Found) -> Job:
        """The run with the samples that a node is fitted to."""
        return trust.lighter(self._job, found) if self._rough else self._job

    def _rows(self, found: Found, most: int, window: tuple[int, ...] = ()) -> Rows | None:
        """See `rows.seen_rows`; None too where onnxruntime cannot run what they need."""
        try:
            return seen_rows(self._read_for(found), found, self, window, most)
        except FAILURES as error:
            logger.info("%s is not fitted to what is seen of it: %s", found.site.name, first_line(error))
            return None

    def _trusted(self, found: Found, candidate: Candidate, halves: tuple[Statistics, Statistics]) -> Trust:
        """How far the data of a node is trusted."""

        def fresh() -> Trust:
            means = movable(self._job, found)
            return trust.trusted(found, candidate, halves, self._ridges, means=means, unsure=self._few)

        if self._trusts is None:
            return fresh()
        return self._trusts.of(self._job, found, candidate, fresh, rough=self._rough)


def _bias(found: Found, halves: tuple[Statistics, Statistics], known: Statistics, weight: Array) -> Array:
    """The bias that makes up for what a weight has changed in the mean, as far as both halves of the samples agree."""
    own = own_bias(found)
    assert own is not None
    return np.asarray(own + agreement(*(half.bias(weight) for half in halves)) * known.bias(weight))
