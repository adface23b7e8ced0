"""What the tool says of itself in a model that it changed: one metadata entry, by which it knows its own chains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import onnx

from onnx_tucker.graph.nodes import Place, graphs
from onnx_tucker.version import __version__

KEY = "onnx_tucker"


class Recipe(NamedTuple):
    """What a node was made into: its method, ranks and form, and the names of the initializers that are its weights."""

    method: str | None
    ranks: tuple[int, ...] | None
    form: str
    weights: tuple[str, ...]


class Chains(NamedTuple):
    """The chains that earlier runs put into a model.

    Attributes:
        nodes: labels of the last nodes, which are those of the nodes that the chains replaced.
        values: outputs of the nodes before, which are unique over all scopes.
        lowered: those of both that belong to nodes in other forms, or to conversions between layouts.
        constants: names of the initializers that these take besides weights.
    """

    nodes: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    lowered: frozenset[str] = frozenset()
    constants: frozenset[str] = frozenset()

    def hold(self, place: Place) -> bool:
        """Whether a node is in one of the chains."""
        return place.label in self.nodes or not self.values.isdisjoint(place.node.output[:1])

    def transforms(self, place: Place) -> bool:
        """Whether a node in one of the chains is in another form, or converts between layouts."""
        return place.label in self.lowered or not self.lowered.isdisjoint(place.node.output[:1])

    def only_lowered(self) -> Chains:
        """The chains whose nodes are no layers that could be factorised again."""
        return Chains(self.nodes & self.lowered, self.values & self.lowered, self.lowered, self.constants)


def chains(model: onnx.ModelProto) -> Chains:
    """The chains that are noted in a model; none where the entry is not one of this tool."""
    try:
        document = json.loads(_text(model))
        return Chains(*(_texts(document.get(name, [])) for name in Chains._fields))
    except (ValueError, AttributeError, TypeError, RecursionError):
        return Chains()


def recipes(model: onnx.ModelProto) -> dict[str, Recipe]:
    """What nodes were made into by the runs that led to a model, by label; none where that is not noted."""
    try:
        noted = json.loads(_text(model))["recipes"]
        return {
            label: Recipe(method, None if ranks is None else tuple(map(int, ranks)), form, tuple(map(str, weights)))
            for label, (method, ranks, form, weights) in noted.items()
            if isinstance(method, str | None) and isinstance(form, str) and weights
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def record(model: onnx.ModelProto, new: Chains, made: Mapping[str, Recipe]) -> None:
    """Notes chains in the model, in place, and what nodes were made into, beside those of earlier runs."""
    known = chains(model)
    content = {name: sorted(getattr(known, name) | getattr(new, name)) for name in new._fields}
    there = {tensor.name for graph in graphs(model) for tensor in graph.initializer}
    old = {label: recipe for label, recipe in recipes(model).items() if there.issuperset(recipe.weights)}
    text = json.dumps({"version": __version__, **content, "recipes": {**old, **made}})
    entry = next((entry for entry in model.metadata_props if entry.key == KEY), None)
    if entry is None:
        entry = model.metadata_props.add(key=KEY)
    entry.value = text


def _text(model: onnx.ModelProto) -> str:
    return next((entry.value for entry in model.metadata_props if entry.key == KEY), "{}")


def _texts(values: Any) -> frozenset[str]:
    return frozenset(value for value in values if isinstance(value, str))
