"""Which values of the main graph are kept as frames, and which nodes work on them.

Convolutions are given; the nodes between them follow: one that can work on frames does if all values that it takes are
made as frames. A value is converted where it is needed otherwise than it is made, once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import onnx

from onnx_tucker.graph.context import Context
from onnx_tucker.graph.lower.carriers import Carrier, carrier
from onnx_tucker.graph.lower.frames import Frames
from onnx_tucker.graph.nodes import STANDARD, Names, Place, Scope


class Entry(NamedTuple):
    """A value that is turned into frames before the first node that needs them, by its label."""

    frames: Frames
    first: str


@dataclass(frozen=True)
class Layout:
    """A layout of the main graph.

    Attributes:
        made: values that are made as frames.
        entered: other values that are needed as frames.
        left: values made as frames that are needed as they are.
        carriers: the nodes besides convolutions that work on frames, by label.
    """

    made: Mapping[str, Frames]
    entered: Mapping[str, Entry]
    left: Collection[str]
    carriers: Mapping[str, Carrier]

    def frames(self, value: str) -> Frames:
        """The frames of a value that is made or entered."""
        return self.made[value] if value in self.made else self.entered[value].frames


def frames_of(context: Context, value: str) -> Frames | None:
    """The frames, without a name, that a value could be kept as: those of a 3D layer with a fixed size."""
    shape = context.fixed.get(value, ())
    sizes = [size for size in shape[1:] if isinstance(size, int) and size]
    if len(shape) != 5 or len(sizes) != 4:
        return None
    return Frames("", sizes[0], tuple(sizes[1:]), value if shape[0] is None else shape[0])


def lay_out(context: Context, labels: Collection[str], names: Names) -> Layout:
    """The layout that goes with convolutions on frames.

    Args:
        context: all nodes.
        labels: the convolutions, nodes of the main graph whose input and output have frames.
        names: gives out new names.
    """

    def named(value: str, frames: Frames) -> Frames:
        return replace(frames, name=names.fresh(f"{value}/frames"))

    made: dict[str, Frames] = {}
    entered: dict[str, Entry] = {}
    carriers: dict[str, Carrier] = {}
    needed = {value.name for scope in {place.scope for place in context.places} for value in _outputs(scope)}
    for place in context.places:
        node = place.node
        if place.label in labels:
            x, y = frames_of(context, node.input[0]), frames_of(context, node.output[0])
            if x is None or y is None:
                raise ValueError(f"{place.label} has no frames")
            if node.input[0] not in made and node.input[0] not in entered:
                entered[node.input[0]] = Entry(named(node.input[0], x), place.label)
            taken = made[node.input[0]] if node.input[0] in made else entered[node.input[0]].frames
            made[node.output[0]] = named(node.output[0], replace(y, batch=taken.batch))
            needed.update(node.input[1:])
            continue
        alone = is_main(place) and context.seen.isdisjoint(node.input)
        found = None
        if alone and not made.keys().isdisjoint(node.input):
            constants = [context.constants.fixed(name, place.scope) if name else None for name in node.input]
            found = carrier(node, [made.get(name) for name in node.input], constants, context.opset)
        if found is None:
            needed.update(node.input)
            continue
        carriers[place.label] = found
        needed.update(name for i, name in enumerate(node.input) if i not in found.data)
        if found.out:
            made[node.output[0]] = named(node.output[0], found.out)
    return Layout(made, entered, needed & made.keys(), carriers)


def is_main(place: Place) -> bool:
    """Whether a node is a standard one of the main graph."""
    return place.scope.outer is None and not place.scope.function and place.node.domain in STANDARD


def _outputs(scope: Scope) -> Collection[onnx.ValueInfoProto]:
    return scope.graph.output if isinstance(scope.graph, onnx.GraphProto) else ()
