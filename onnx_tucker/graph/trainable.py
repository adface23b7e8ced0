"""Which initializers are weights and biases of the linear nodes, and no others: those that may be trained."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import onnx

from onnx_tucker.graph import provenance
from onnx_tucker.graph.nodes import STANDARD, Place, places

OPERANDS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1)}
"""The inputs of linear operators that may be weights or biases."""


def trainable(model: onnx.ModelProto) -> list[str]:
    """Names of the weights and biases in single precision that the main graph's linear nodes take, in order.

    Those that callers may replace or see, as inputs or outputs of the model, are left out.
    """
    graph = model.graph
    given = {value.name for value in graph.input} if model.ir_version >= 4 else set()  # those may be replaced
    shown = {value.name for value in graph.output}
    tensors = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    weights = tensors.keys() - given - shown
    chains = provenance.chains(model)
    here = [place for place in places(model) if place.scope.graph is graph]
    makers = {name: place for place in here for name in place.node.output}
    found, products = dict[str, None](), set[str]()
    for place in here:
        added = place.node.op_type == "Add"
        sources = [s for name in _operands(place, products) for s in _sources(name, makers, chains) if s in weights]
        for source in sources:
            if source not in chains.constants and (_vector(tensors[source]) or not added):
                found[source] = None
        if sources and place.node.op_type == "MatMul":
            products.add(place.node.output[0])
    return list(found)


def _operands(place: Place, products: Collection[str]) -> Iterator[str]:
    """What a linear node multiplies by and adds, as far as it may be trained.

    Args:
        place: the node.
        products: what those before it give that multiply by a weight, and add nothing.
    """
    node = place.node
    if node.domain not in STANDARD:
        return
    for index in OPERANDS.get(node.op_type, ()):
        if index < len(node.input):
            yield node.input[index]
    if node.op_type == "Add":  # the bias of a product
        for one, other in (node.input, reversed(node.input)):
            if one in products:
                yield other


def _vector(tensor: onnx.TensorProto) -> bool:
    """Whether it adds the same wherever it is added, as a bias does, and masks and positions do not."""
    return math.prod(tensor.dims) == (tensor.dims[-1] if tensor.dims else 1)


def _sources(name: str, makers: Mapping[str, Place], chains: provenance.Chains) -> Iterator[str]:
    """A value itself, and where a chain on frames computes it, what it is computed from."""
    place = makers.get(name)
    if place is None:
        yield name
    elif chains.transforms(place):
        for source in place.node.input:
            yield from _sources(source, makers, chains)
