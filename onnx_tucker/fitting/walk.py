"""Runs a model piece by piece on all of the data, so that the values of all nodes take one run in all.

Nodes are computed in the form on frames that promises most, as the model itself may take several times as long.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.graph import external
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.layer import WHOLE, piece_of
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.piece import store
from onnx_tucker.graph.segment import between, model_of, uses
from onnx_tucker.job import Job
from onnx_tucker.planning.ways import quick, untouched
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.types import Candidate, Chain

logger = logging.getLogger(__name__)

HELD = 2**30
"""Bytes of values that are held for later nodes; on feeds that have no room there, those start from further ahead."""


class Reached(NamedTuple):
    """How far the model was run on a feed.

    Attributes:
        made: the names of all values up to there.
        held: those that later nodes need, which are held.
    """

    made: frozenset[str]
    held: Mapping[str, NDArray[Any]]

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return sum(value.nbytes for value in self.held.values())


class Way(NamedTuple):
    """What leads from a front to some values.

    Attributes:
        session: what is to be run; None for nothing.
        wanted: the names of the values that are asked for and not known at the front.
        fresh: of those that later nodes need.
        made: all values up to there.
        kept: those that later nodes need, known or fresh.
        again: whether it starts from the feed, as something that it needs was let go.
    """

    session: ort.InferenceSession | None
    wanted: Sequence[str]
    fresh: Sequence[str]
    made: frozenset[str]
    kept: Sequence[str]
    again: bool


class Walk:
    """A model whose values are read in the order of its nodes, which may be replaced before they are reached.

    Args:
        job: the run, with data.
        feeds: what to run it on.
    """

    def __init__(self, job: Job, feeds: Sequence[Feed]) -> None:
        self._job, self._feeds, self._names = job, feeds, Names(job.model)
        self._nodes = list(job.model.graph.node)
        self._pieces: dict[str, list[onnx.NodeProto]] = {}
        self._tensors = {tensor.name: tensor for tensor in job.model.graph.initializer}
        for found in job.found:
            if found.is_layer and quick(job.context, found, untouched(found)).changes:
                self.replace(found, untouched(found), Chain((found.site.stage,), (found.site.read(),)))
        self._fronts = [Reached(frozenset(feed), {}) for feed in feeds]

    def replace(self, found: Found, candidate: Candidate, chain: Chain) -> None:
        """Puts a chain in the place of a node of the main graph; in bodies and functions nothing is changed.

        Args:
            found: the node.
            candidate: what it becomes, in any form.
            chain: its weights.
        """
        if found.place.scope.outer is not None or found.place.scope.function:
            return
        candidate = quick(self._job.context, found, found.own(candidate))
        chain = replace(chain, stages=candidate.stages)
        weights = store(found, candidate, chain, self._names)
        piece = piece_of(found, candidate, weights, self._job.context, self._names, WHOLE)
        self._put(found.place.node, piece.nodes)
        if piece.adding and found.reading.added:
            self._put(found.reading.added.place.node, [piece.adding])
        self._tensors |= {tensor.name: tensor for tensor in (*weights, *piece.constants)}

    def _put(self, node: onnx.NodeProto, nodes: Sequence[onnx.NodeProto]) -> None:
        """Puts nodes in the place of one, or of those that are there already."""
        old = self._pieces.get(node.output[0], [node])
        index = self._nodes.index(old[0])
        self._nodes[index : index + len(old)] = self._pieces[node.output[0]] = list(nodes)

    def model(self, names: Sequence[str]) -> bytes:
        """The nodes that these values need, from the model's inputs on, as a model that gives them."""
        known = self._feeds[0]
        return model_of(self._job.model, between(self._nodes, known, names), self._tensors, known, names)

    def read(self, names: Sequence[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
        """The values of these names, for one feed after another.

        Raises:
            FAILURES: onnxruntime cannot run what they need.
        """
        ways, size, given = dict[frozenset[str], Way](), 0, set(self._feeds[0])
        stored = {  # which callers may give and do not
            name: external.values(self._tensors[name], self._job.folder)
            for name in names
            if name in self._tensors and name not in given
        }
        total = sum(front.size for front in self._fronts)
        for i, feed in enumerate(self._feeds):
            front = self._fronts[i]
            if front.made not in ways:
                ways[front.made] = self._way(front, names)
            way = ways[front.made]
            values = {**stored, **({} if way.again else front.held)}
            holding = total - front.size + size <= HELD  # if it takes as much as the one before
            if way.session is not None:
                taken = {v.name: values[v.name] if v.name in values else feed[v.name] for v in way.session.get_inputs()}
                values |= self._run(way.session, taken, way.wanted, way.fresh if holding else [])
            if all(name in values for name in way.kept):
                further = Reached(way.made, {name: values[name] for name in way.kept})
                size = further.size
                if total - front.size + size <= HELD:
                    self._fronts[i], total = further, total - front.size + size
            yield {name: values[name] if name in values else feed[name] for name in names}

    def _way(self, front: Reached, names: Sequence[str]) -> Way:
        """What leads from a front to some values, or from the feed, if something that they need was let go."""
        start = self._feeds[0].keys()
        known = {*start, *front.held}
        nodes = between(self._nodes, known, names)
        needed = {*names, *(name for node in nodes for name in uses(node))}
        again = not (needed & front.made) <= known
        if again:
            known = {*start}
            nodes = between(self._nodes, known, names)
        made = (frozenset(start) if again else front.made) | {output for node in nodes for output in node.output}
        later = {name for node in self._nodes if made.isdisjoint(node.output) for name in uses(node)}
        kept = sorted((made & later) - start)
        wanted, fresh = ([name for name in some if name not in known] for some in (names, kept))
        session = None
        if nodes:
            given = dict(self._feeds[0]) if again else {**front.held, **self._feeds[0]}
            content = model_of(self._job.model, nodes, self._tensors, given, dict.fromkeys((*wanted, *fresh)))
            session = self._job.open(content, arena=False)
        return Way(session, wanted, fresh, made, kept, again)

    @staticmethod
    def _run(
        session: ort.InferenceSession, feed: Feed, wanted: Sequence[str], further: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        """Values of a piece; the further ones are left out where they are no arrays."""
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        names = list(dict.fromkeys((*wanted, *further)))
        try:
            values = dict(zip(names, session.run(names, dict(feed), options), strict=True))
        except FAILURES as error:
            if not further:
                raise
            logger.info("a piece is run again for each node behind it: %s", first_line(error))
            values = dict(zip(wanted, session.run(list(wanted), dict(feed), options), strict=True))
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
