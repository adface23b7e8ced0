"""The interface of an operator: how its node is read into a site, and how a chain is emitted in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import helper

from onnx_tucker import cost
from onnx_tucker.cost import Layer
from onnx_tucker.graph.constant import Constant, Value
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.fold import Size
from onnx_tucker.graph.nodes import Names, Place
from onnx_tucker.types import Array, Site, Skip, Stage


@dataclass(frozen=True, eq=False)
class Seat:
    """How a node holds its weight.

    Attributes:
        weight: the constant.
        index: which input it is.
        data: which input the activations are.
        layout: what the order of the stored values depends on; nodes that share a weight and a layout share factors.
        store: the array in which a stage's canonical weight is stored in a node like this one.
        inputs: the activations as (batch, groups * in, *spatial), as a site has them; not of a batch of matrices.
        outputs: the same of what the node gives.
    """

    weight: Constant
    index: int
    data: int
    layout: Hashable
    store: Callable[[Stage, Array], Array]
    inputs: Callable[[Array], Array] = lambda array: array
    outputs: Callable[[Array], Array] = lambda array: array


@dataclass(frozen=True, eq=False)
class Added:
    """A constant that is added to what a node gives, by the node itself or by an Add that is all that takes it.

    Attributes:
        constant: what is added.
        place: the node that adds it.
        index: which input of that it is.
    """

    constant: Constant
    place: Place
    index: int


@dataclass(frozen=True)
class Reading:
    """What a node was found to be: a site or a skip, and its counts where they are known.

    Attributes:
        result: the site, or why there is none.
        params: number of weights, without the bias.
        bias_params: number of constant bias values.
        layer: what the counting conventions see.
        seat: how the node holds its weight; None where that is not known.
        origins: what the weights are made from; nodes may share them.
        bias_origin: what the bias is made from, where it is constant.
        added: the constant that is added to the output; that of an Add behind the node is not counted as its bias.
    """

    result: Site | Skip
    params: int | None = None
    bias_params: int = 0
    layer: Layer | None = None
    seat: Seat | None = None
    origins: frozenset[Value] = frozenset()
    bias_origin: Value | None = None
    added: Added | None = None

    @property
    def site(self) -> Site | None:
        """What the node computes, as far as it may be computed otherwise, factorised or not."""
        return self.result.site if isinstance(self.result, Skip) else self.result


@dataclass(frozen=True, eq=False)
class Emission:
    """The parts a chain is emitted from: one weight a stage, and one value before, between and after the stages.

    Attributes:
        node: the node that the chain replaces.
        seat: how that node holds its weight.
        stages: the chain's stages.
        weights: names of the stored weights, and of the chain's own bias, if it has one.
        values: names of the values.
        dtype: of the weights.
        opset: version of the standard operators.
        names: gives out new names.
        variables: those made so far, by name.
    """

    node: onnx.NodeProto
    seat: Seat
    stages: Sequence[Stage]
    weights: Sequence[str]
    values: Sequence[str]
    dtype: np.dtype[Any]
    opset: int
    names: Names
    variables: dict[str, gs.Variable] = field(default_factory=dict)

    def variable(self, name: str) -> gs.Variable:
        """The one variable of a name."""
        return self.variables.setdefault(name, gs.Variable(name))

    def rest(self) -> list[gs.Variable]:
        """The chain's own bias, or the node's further inputs (the bias), which only the last stage takes."""
        return [self.variable(name) for name in self.weights[len(self.stages) :] or self.node.input[2:]]

    def is_last(self, i: int) -> bool:
        """Whether stage `i` ends the chain; it takes the bias and whatever is fused into the node."""
        return i == len(self.stages) - 1

    def layer(
        self, i: int, op_type: str, attrs: dict[str, Any], rest: Sequence[gs.Tensor] = (), domain: str = ""
    ) -> gs.Node:
        """The node of stage `i`: its value and weight on the sides where the original has them, then `rest`."""
        first = [self.variable(self.values[i]), self.variable(self.weights[i])]
        if self.seat.data > self.seat.index:
            first.reverse()
        outputs = [self.variable(self.values[i + 1])]
        typed = {name: value for name, value in attrs.items() if value != []}  # an empty list has no type to infer
        return gs.Node(op_type, attrs=typed, inputs=[*first, *rest], outputs=outputs, domain=domain or None)


@dataclass(frozen=True)
class Op:
    """One operator type.

    Attributes:
        domain: of the operator; empty for the standard ones.
        read: reads a node.
        emit: the nodes of a chain.
    """

    domain: str
    read: Callable[[Place, Context], Reading]
    emit: Callable[[Emission], list[gs.Node]]


BROADCASTS = 7
"""The first opset in which what is added is broadcast as in NumPy."""
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The standard operators that are factorised."""
COMPUTED = "its second input, the weight, is computed in the graph"
MISFIT = "its attributes do not fit its weight and input"


def refuse(place: Place, reason: str, weight: Constant | None = None) -> Reading:
    """A reading that skips a node of which no more is known."""
    skip = Skip(place.label, place.node.op_type, reason)
    if weight is None:
        return Reading(skip)
    return Reading(skip, math.prod(weight.shape), origins=frozenset([weight.counted]))


def contradicted(place: Place, context: Context, index: int, axis: int, size: int) -> str:
    """Why a product cannot be one: the model fixes another size along an axis of an input; empty where it does not.

    Args:
        place: the node.
        context: its surroundings.
        index: which input it is.
        axis: along which the products are summed.
        size: of the weight there.
    """
    fixed = context.fixed.get(place.node.input[index]) or ()
    known = fixed[axis] if -len(fixed) <= axis < len(fixed) else None
    return MISFIT if isinstance(known, int) and known != size else ""


def computed(
    place: Place, context: Context, stage: Stage | None, input_shape: tuple[int, ...] | None, scalings: int = 0
) -> Reading:
    """A reading that skips a node whose weight is computed; it holds none where that follows from what callers give.

    Args:
        place: the node.
        context: its surroundings.
        stage: the node as the only stage of a chain; None where the shape of its weight is not known.
        input_shape: as in `Site`.
        scalings: as in `Site`.
    """
    given, stored = context.constants.behind(place.node.input[1], place.scope, LAYERS)
    layer = None if stage is None else _layer(stage, input_shape, has_bias(place), scalings)
    return replace(refuse(place, COMPUTED), params=0 if given and not stored else None, layer=layer)


def _layer(stage: Stage, input_shape: tuple[int, ...] | None, bias: bool, scalings: int) -> Layer | None:
    """What is counted of a node; None where its input is not known."""
    return None if input_shape is None else next(cost.layers([stage], input_shape, bias, scalings))


def has_bias(place: Place) -> bool:
    """Whether something is added to the output by the node's third input."""
    return len(place.node.input) > 2 and bool(place.node.input[2])


def settle(
    place: Place,
    context: Context,
    stage: Stage,
    input_shape: tuple[int, ...] | None,
    seat: Seat,
    canonical: Callable[[NDArray[Any]], Array],
    *,
    bias: bool = False,
    scalings: int = 0,
    objection: str,
) -> Reading:
    """The reading of a node whose geometry is known: a site, unless something speaks against it.

    Args:
        place: the node.
        context: its surroundings.
        stage: the node as the only stage of a chain.
        input_shape: as in `Site`.
        seat: how it holds its weight.
        canonical: the stored weight in the layout (groups * out, in, *kernel).
        bias: whether something is added to the output.
        scalings: as in `Site`.
        objection: why the operator does not allow it; it may be computed in another form all the same.
    """
    weight, op_type = seat.weight, place.node.op_type
    layer = _layer(stage, input_shape, bias, scalings)
    constant_bias = context.constant(place, 2) if bias else None
    bias_params = math.prod(constant_bias.shape) if constant_bias else 0
    untouchable = context.objection(weight)
    found: Site | Skip
    if untouchable:
        found = Skip(place.label, op_type, objection or untouchable)
    else:
        dtype = helper.tensor_dtype_to_np_dtype(weight.elem_type)
        read = partial(_read, weight, canonical)
        size = _fixed_size(context.fixed.get(place.node.input[seat.data])) if stage.window.kernel else None
        site = Site(place.label, op_type, stage, dtype, read, input_shape, bias, scalings, size)
        found = Skip(place.label, op_type, objection, site) if objection else site
    added = Added(constant_bias, place, 2) if constant_bias else None
    origins, bias_origin = frozenset([weight.counted]), constant_bias.counted if constant_bias else None
    return Reading(found, math.prod(weight.shape), bias_params, layer, seat, origins, bias_origin, added)


def _fixed_size(shape: tuple[Size, ...] | None) -> tuple[int, ...] | None:
    """Spatial size of a value (batch, channels, *spatial), if none of it is free."""
    sizes = tuple(size for size in (shape or ())[2:] if isinstance(size, int) and size)
    return sizes if shape and len(sizes) == len(shape) - 2 else None


def _read(weight: Constant, canonical: Callable[[NDArray[Any]], Array]) -> Array:
    return np.ascontiguousarray(canonical(weight.read()))
