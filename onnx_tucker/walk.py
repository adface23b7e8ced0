"""Runs a model piece by piece on all of the data, so that the values of all nodes take one run in all.

Nodes are computed in the form on frames that promises most, as the model itself may take several times as long.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.forms import DIRECT
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.layer import WHOLE, piece_of
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.piece import store
from onnx_tucker.graph.segment import between, model_of, uses
from onnx_tucker.job import Job
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.tuning import promising, untouched
from onnx_tucker.types import Candidate, Chain, Site

logger = logging.getLogger(__name__)

HELD = 2**30
"""Bytes of values that are held for later nodes; where there are more, those nodes start from further ahead."""


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
            if isinstance(found.reading.found, Site) and promising(job.context, found, (found.site.stage,)) != DIRECT:
                self.replace(found, untouched(found), Chain((found.site.stage,), (found.site.read(),)))
        self._start()

    def _start(self) -> None:
        self._held: list[dict[str, NDArray[Any]]] = [{} for _ in self._feeds]
        self._made, self._mixed = set(self._feeds[0]), False

    def replace(self, found: Found, candidate: Candidate, chain: Chain) -> None:
        """Puts a chain in the place of a node of the main graph; in bodies and functions nothing is changed.

        Args:
            found: the node.
            candidate: what it becomes, in any form.
            chain: its weights.
        """
        if found.place.scope.outer is not None or found.place.scope.function:
            return
        candidate = found.own(candidate)
        chain = replace(chain, stages=candidate.stages)
        candidate = replace(candidate, form=str(promising(self._job.context, found, chain.stages)))
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
        if self._mixed:
            self._start()
        known = {**self._feeds[0], **self._held[0]}
        nodes = between(self._nodes, known, names)
        needed = {*names, *(name for node in nodes for name in uses(node))}
        if (needed & self._made) - known.keys():
            self._start()  # something was passed by and let go
            known = dict(self._feeds[0])
            nodes = between(self._nodes, known, names)
        made = self._made | {output for node in nodes for output in node.output}
        later = {name for node in self._nodes if made.isdisjoint(node.output) for name in uses(node)}
        kept = [name for name in (*self._held[0], *sorted(made - self._made)) if name in later]
        wanted = [name for name in names if name not in known]
        fresh = [name for name in kept if name not in known]
        session = None
        if nodes:
            content = model_of(self._job.model, nodes, self._tensors, known, dict.fromkeys((*wanted, *fresh)))
            session = self._job.stopwatch.machine.session(content, self._job.folder)
        holding, held = True, 0
        for i, feed in enumerate(self._feeds):
            values = dict(self._held[i])
            if session is not None:
                taken = {v.name: values[v.name] if v.name in values else feed[v.name] for v in session.get_inputs()}
                values |= self._run(session, taken, wanted, fresh if holding else [])
            holding &= all(name in values for name in kept)
            held += sum(values[name].nbytes for name in kept if holding)
            holding &= (held if i else held * len(self._held)) <= HELD
            if holding:
                self._held[i], self._mixed = {name: values[name] for name in kept}, True
            yield {name: values[name] if name in values else feed[name] for name in names}
        if holding:
            self._made, self._mixed = made, False

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
