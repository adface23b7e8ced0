"""Finds every weight-bearing node of a model, and what can be done with it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_tucker.cost import Layer
from onnx_tucker.errors import ModelError
from onnx_tucker.factor import METHODS
from onnx_tucker.graph.constant import Constant, Value
from onnx_tucker.graph.constants import Constants
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.nodes import STANDARD, Place, opset_of, places
from onnx_tucker.graph.ops import OPS, others
from onnx_tucker.graph.ops.op import Op, Reading, Seat, refuse
from onnx_tucker.graph.provenance import Chains, chains
from onnx_tucker.graph.shapes import Declared, Shapes
from onnx_tucker.types import Candidate, Site, Skip, Stage

OWN_CHAIN = "it is in a chain that onnx-tucker made; see --refactorize"
LOWERED = "onnx-tucker made it in another form, which --refactorize does not read"
ALWAYS = "its input is the same on every run, so that it is computed once, when the model is loaded"
NONE = Layer(positions=0, in_positions=0, outputs=0, fan_in=0, fan_out=0, volume=0, bias=False)
"""What is counted of such a node: nothing, whatever the shape of its input."""
SHARED = "the weight is used in several places, and not everywhere in a way that can be factorised alike"


@dataclass(frozen=True, eq=False)
class Found:
    """A weight-bearing node and its reading.

    Attributes:
        place: the node.
        reading: what can be done with it.
        group: label of the first node with the same weight, whose fate it shares; its own where there is none.
    """

    place: Place
    reading: Reading
    group: str

    @property
    def label(self) -> str:
        """The node's name in plans and reports; see `nodes.Place`."""
        return self.place.label

    @property
    def skipped(self) -> str:
        """Why it cannot be factorised; empty where it can."""
        return self.reading.result.reason if isinstance(self.reading.result, Skip) else ""

    @property
    def is_site(self) -> bool:
        """Whether it can be factorised."""
        return not self.skipped

    @property
    def is_layer(self) -> bool:
        """Whether it is known what it computes, so that it may be computed in another form."""
        return self.reading.site is not None

    @property
    def site(self) -> Site:
        """What it computes; only for nodes of which that is known."""
        if self.reading.site is None:
            raise TypeError(f"{self.label} is skipped: {self.skipped}")
        return self.reading.site

    @property
    def seat(self) -> Seat:
        """How the node holds its weight; only for nodes that were not skipped."""
        if self.reading.seat is None:
            raise TypeError(f"{self.label} has no weight that was read")
        return self.reading.seat

    @property
    def input(self) -> str:
        """Name of the value that the weight is applied to."""
        return str(self.place.node.input[self.seat.data])

    @property
    def output(self) -> str:
        """Name of the value that the node gives, together with the constant that is added to it."""
        added = self.reading.added
        return str((added.place if added else self.place).node.output[0])

    @property
    def axis(self) -> int:
        """The axis of the output along which its channels lie; from the end where the node is a product."""
        if self.site.stage.window.kernel:
            return 1
        return -1 if self.seat.index > self.seat.data else -2

    def own(self, candidate: Candidate) -> Candidate:
        """What a node with the same weight could become, with the strides, dilations and pads of this one."""
        stages: tuple[Stage, ...] = (self.site.stage,)
        if candidate.method is not None:
            stages = METHODS[candidate.method].stages(self.site.stage, candidate.ranks or ())
        return replace(candidate, stages=stages)


def macs(nodes: Iterable[Found]) -> int:
    """Multiplications of nodes, as far as they are known."""
    return sum(found.reading.layer.macs for found in nodes if found.reading.layer)


def context_of(
    model: onnx.ModelProto,
    shapes: Shapes,
    declared: Declared,
    folder: Path,
    *,
    freeze_initializer_inputs: bool = False,
    dequantize: bool = False,
) -> Context:
    """The surroundings of all nodes.

    Args:
        model: any model.
        shapes: known shapes of its values.
        declared: the same as far as the model itself fixes them.
        folder: where its file is.
        freeze_initializer_inputs: whether weights that callers could replace are taken for constants.
        dequantize: whether weights that are stored as integers are factorised.
    """
    nodes = tuple(places(model))
    constants = Constants(model, nodes, folder, declared.numbers, overridable=not freeze_initializer_inputs)
    return Context(nodes, constants, shapes, declared.shapes, opset_of(model), dequantize)


def find(model: onnx.ModelProto, context: Context, *, refactorize: bool = False) -> list[Found]:
    """All weight-bearing nodes in the order of the file.

    Every Conv, ConvTranspose, Gemm and MatMul is among them, but for products by the transforms of an earlier run.

    Args:
        model: the model.
        context: its surroundings.
        refactorize: whether the chains of earlier runs are factorised like other nodes.
    """
    noted = chains(model)
    own = noted.only_lowered() if refactorize else noted
    why = LOWERED if refactorize else OWN_CHAIN
    readings = [(place, _read(place, context, own, why)) for place in context.places]
    known = [(place, reading, _key(reading)) for place, reading in readings if reading is not None]
    varying = {key for place, _, key in known if key and _varies(place, context)}
    known = [
        (place, reading, key) if key is None or key in varying else (place, _still(place, reading), None)
        for place, reading, key in known
    ]
    seats: dict[Hashable, list[Seat]] = {}
    for _, reading, key in known:
        if reading.seat and key:
            seats.setdefault(key, []).append(reading.seat)
    alike = {key for key, users in seats.items() if _sharable(users, context)}
    leaders: dict[Hashable, str] = {}
    counted: set[Value] = set()
    found = []
    for place, reading, key in known:
        if key and key not in alike:
            reading = replace(reading, result=Skip(place.label, place.node.op_type, SHARED))
            key = None
        if (key and key in leaders) or (reading.origins and counted.issuperset(reading.origins)):
            reading = replace(reading, params=0)  # what is shared is counted where it comes first
        if reading.bias_origin in counted:
            reading = replace(reading, bias_params=0)
        counted |= reading.origins | ({reading.bias_origin} if reading.bias_origin else set())
        found.append(Found(place, reading, leaders.setdefault(key, place.label) if key else place.label))
    return found


def _key(reading: Reading) -> Hashable:
    """What nodes with the same weight, which can be factorised alike, have in common; None for skipped ones."""
    if reading.seat is None or isinstance(reading.result, Skip):
        return None
    return reading.seat.weight.recipe, reading.seat.layout


def _varies(place: Place, context: Context) -> bool:
    """Whether something that a node takes may be something else on another run."""
    return any(context.constants.varies(name, place.scope) for name in place.node.input if name)


def _still(place: Place, reading: Reading) -> Reading:
    """The reading of a node that is computed once."""
    return replace(reading, result=Skip(place.label, place.node.op_type, ALWAYS), layer=NONE)


def _sharable(seats: Sequence[Seat], context: Context) -> bool:
    """Whether nothing but the nodes that share a factorisation needs their weight, and what it is made from."""
    freed = context.constants.freed([seat.weight.value for seat in seats])
    return all(freed.issuperset(seat.weight.chain) for seat in seats)


def _read(place: Place, context: Context, own: Chains, why: str) -> Reading | None:
    op = _op(place)
    if own.transforms(place) and place.node.op_type == "MatMul":
        return None  # what it multiplies by is a transform
    if op is None:
        return None if place.scope.function else others.read(place, context)
    if place.scope.function:
        reason = f"it is inside the model-local function {place.scope.function}; see --inline-functions"
        held = next(filter(None, (context.constant(place, i) for i in range(len(place.node.input)))), None)
        return refuse(place, reason, held) if held else replace(refuse(place, reason), params=0)
    if len(place.node.input) < 2 or not place.node.output:
        return refuse(place, "it has too few inputs or outputs")
    if not context.opset:
        return refuse(place, "the model does not import the standard operators")
    try:
        reading = op.read(place, context)
    except ModelError as error:
        return refuse(place, str(error).rstrip("."))
    if own.transforms(place):
        held = _stored(place, context)
        if held:
            reading = replace(reading, params=math.prod(held.tensor.dims), origins=frozenset([held.origin]))
    if own.hold(place) and (reading.site or own.transforms(place)):
        return replace(reading, result=Skip(place.label, place.node.op_type, why))
    return reading


def _stored(place: Place, context: Context) -> Constant | None:
    """The weight from which that of a convolution in another form is computed: the largest constant it comes from."""
    left, found = [place.node.input[1]], list[Constant]()
    while left:
        name = left.pop()
        held, maker = context.constants.find(name, place.scope), context.constants.maker(name, place.scope)
        if held:
            found.append(held)
        elif maker is not None:
            left += maker.input
    return max(found, key=lambda held: math.prod(held.tensor.dims), default=None)


def _op(place: Place) -> Op | None:
    """The operator of a node, if it is one that can be factorised."""
    op, domain = OPS.get(place.node.op_type), place.node.domain
    known = op is not None and (domain in STANDARD if not op.domain else domain == op.domain)
    return op if known else None
