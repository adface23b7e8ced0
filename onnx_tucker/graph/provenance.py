"""What the tool says of itself in a model that it changed: one metadata entry, by which it knows its own chains."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, NamedTuple

import onnx

from onnx_tucker.graph.nodes import Place

KEY = "onnx_tucker"


class Chains(NamedTuple):
    """The chains that earlier runs put into a model.

    Attributes:
        nodes: labels of the last nodes, which are those of the nodes that the chains replaced.
        values: outputs of the nodes before, which are unique over all scopes.
    """

    nodes: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()

    def hold(self, place: Place) -> bool:
        """Whether a node is in one of the chains."""
        return place.label in self.nodes or not self.values.isdisjoint(place.node.output[:1])


def chains(model: onnx.ModelProto) -> Chains:
    """The chains that are noted in a model; none where the entry is not one of this tool."""
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), "{}")
    try:
        document = json.loads(text)
        return Chains(_texts(document["nodes"]), _texts(document["values"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return Chains()


def record(model: onnx.ModelProto, nodes: Iterable[str], values: Iterable[str]) -> None:
    """Notes chains in the model, in place, beside those of earlier runs."""
    known = chains(model)
    content = {"nodes": sorted(known.nodes.union(nodes)), "values": sorted(known.values.union(values))}
    text = json.dumps({"version": version("onnx-tucker"), **content})
    entry = next((entry for entry in model.metadata_props if entry.key == KEY), None)
    if entry is None:
        entry = model.metadata_props.add(key=KEY)
    entry.value = text


def _texts(values: Any) -> frozenset[str]:
    return frozenset(value for value in values if isinstance(value, str))
