"""Which bodies of other nodes the data gets to.

A branch that no sample takes shows no error, whatever becomes of it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from onnx_tucker.graph import owners
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.nodes import places
from onnx_tucker.runtime.batches import evenly
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line
from onnx_tucker.runtime.timing import nodes_run
from onnx_tucker.types import Skip

logger = logging.getLogger(__name__)

UNREACHED = "the data never gets here, so that nothing of it is known; give data that does"
LEAST, MOST = 32, 200_000
"""Inputs that are looked at, if there are so many, and runs of nodes that more of them may take together."""


def reached(
    model: onnx.ModelProto, found: Sequence[Found], feeds: Sequence[Feed], machine: Machine, folder: Path
) -> list[Found]:
    """The weight-bearing nodes, of which those that never run on the data are skipped, and what shares their weights.

    Args:
        model: the model.
        found: the nodes.
        feeds: the data.
        machine: what it is run on.
        folder: what its external data is relative to.
    """
    inner = {one.label for one in found if one.is_site and one.place.scope.outer is not None}
    if not inner:
        return list(found)
    labels = [place.label for place in places(model)]
    some = [feeds[i] for i in evenly(len(feeds), max(LEAST, MOST // len(labels)))]
    try:
        ran = owners.untagged(nodes_run(machine, owners.tagged(model, bodies=True), some, folder))
    except FAILURES as error:
        logger.info("what the data gets to is not known: %s", first_line(error))
        return list(found)
    left = inner - {labels[i] for i in ran}
    groups = {one.group for one in found if one.label in left}
    return [_skipped(one) if one.group in groups else one for one in found]


def _skipped(found: Found) -> Found:
    node = found.place.node
    return replace(found, reading=replace(found.reading, result=Skip(found.label, node.op_type, UNREACHED)))
