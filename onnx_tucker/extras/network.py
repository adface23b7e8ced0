"""The main graph of an ONNX model in torch, node by node, with some of its initializers as what is trained.

Linear operators are the project's own, as their weights may be shared or computed from what is trained, which a module
with weights of its own cannot be, and a few that onnx2torch lacks. All others are those of onnx2torch.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx2torch.node_converters.registry import get_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from torch import Tensor

from onnx_tucker.errors import ModelError, UnsupportedError
from onnx_tucker.extras.operators import OPERATORS
from onnx_tucker.graph import external
from onnx_tucker.graph.check import FAILURES
from onnx_tucker.graph.nodes import STANDARD, attributes, inputs_of, name_standard, opset_of
from onnx_tucker.graph.segment import between, uses
from onnx_tucker.runtime.session import Feed, first_line

logger = logging.getLogger(__name__)


class Step(NamedTuple):
    """A node: what it computes, from which values, and the values it makes."""

    node: onnx.NodeProto
    run: Callable[..., Any]
    inputs: Sequence[str]


class _Path(NamedTuple):
    """The nodes between values, and those of what is known that they take; the others need not be tensors."""

    nodes: Sequence[onnx.NodeProto]
    takes: Collection[str]


class Network:
    """A model in torch.

    Args:
        model: its main graph alone is run; it is not changed.
        trained: the initializers that are trained; not those that a node of onnx2torch has a copy of, nor those with
            values that are not finite.
        device: of torch, on which it runs.
        folder: what its external data is relative to.

    Attributes:
        weights: the trained initializers, by name.

    Raises:
        ModelError: a node cannot be run in torch.
    """

    def __init__(
        self, model: onnx.ModelProto, trained: Collection[str], device: str = "cpu", folder: Path = Path()
    ) -> None:
        graph, self._device = model.graph, device
        self.weights: dict[str, Tensor] = {}
        self._constants: dict[str, Tensor] = {}
        self._paths: dict[tuple[frozenset[str], tuple[str, ...]], _Path] = {}
        self._nodes = list(graph.node)
        self._steps = {id(step.node): step for step in _steps(model, device)}
        copied = {name for step in self._steps.values() for name in {*step.node.input} - {*step.inputs}}
        for tensor in graph.initializer:
            values = self._tensor(tensor.name, external.values(tensor, folder).copy())
            if tensor.name in trained and tensor.name not in copied and bool(torch.isfinite(values).all()):
                self.weights[tensor.name] = values.requires_grad_()
            else:
                self._constants[tensor.name] = values
        varying = {*inputs_of(model), *self.weights}
        fixed = []
        for node in self._nodes:
            if varying.isdisjoint(node.input):
                fixed.append(node)
            else:
                varying.update(node.output)
        with torch.no_grad():
            self._compute(fixed, self._constants)

    def only(self, names: Collection[str]) -> Network:
        """The same network, of whose weights only these are trained."""
        other = copy.copy(self)
        other.weights = {name: weight for name, weight in self.weights.items() if name in names}
        others = {name: weight.detach() for name, weight in self.weights.items() if name not in names}
        other._constants = {**self._constants, **others}
        return other

    def run(self, known: Feed, wanted: Sequence[str]) -> list[Tensor]:
        """Values of the graph.

        Args:
            known: those that are there already, such as the inputs.
            wanted: names of those to compute.

        Raises:
            ModelError: a node fails, or does not give what is wanted of it.
        """
        values, asked = {**self._constants, **self.weights}, (frozenset(known), tuple(wanted))
        if asked not in self._paths:
            nodes = between(self._nodes, {*values, *known}, wanted)
            self._paths[asked] = _Path(
                nodes, {*wanted, *(name for node in nodes for name in uses(node))} & known.keys()
            )
        path = self._paths[asked]
        for name in path.takes:
            values[name] = self._tensor(name, np.asarray(known[name], order="C"))
        self._compute(path.nodes, values)
        lost = next((name for name in wanted if name not in values), None)
        if lost is not None:
            node = next(node for node in path.nodes if lost in node.output)
            raise ModelError(f"torch does not give {lost!r} of {_named(node)}.")
        return [values[name] for name in wanted]

    def arrays(self, known: Feed, wanted: Sequence[str]) -> list[NDArray[Any]]:
        """Values of the graph as `run` computes them, but as arrays, without what derivatives need."""
        with torch.no_grad():
            return [value.cpu().numpy() for value in self.run(known, wanted)]

    def _tensor(self, name: str, array: NDArray[Any]) -> Tensor:
        try:
            return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self._device)
        except TypeError as error:
            raise ModelError(f"torch cannot hold the values of {name!r}: {first_line(error)}") from error

    def _compute(self, nodes: Sequence[onnx.NodeProto], values: dict[str, Tensor]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what onnx2torch asks of torch
            for node in nodes:
                step = self._steps[id(node)]
                try:
                    made = step.run(*(values[name] if name else None for name in step.inputs))
                except Exception as error:  # whatever torch and onnx2torch raise
                    raise ModelError(f"torch cannot run {_named(node)}: {first_line(error)}.") from error
                outputs = made if isinstance(made, list | tuple) else [made]
                values.update((name, value) for name, value in zip(node.output, outputs, strict=False) if name)


def _steps(model: onnx.ModelProto, device: str) -> list[Step]:
    """The nodes of the main graph in torch."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    name_standard(copy)
    graph = OnnxGraph(_shaped(copy).graph)
    pairs = zip(model.graph.node, graph.nodes.values(), strict=True)
    return [_step(node, other, graph, model, device) for node, other in pairs]


def _shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the shapes that can be inferred, which few converters ask for."""
    try:
        return onnx.shape_inference.infer_shapes(model) if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF else model
    except FAILURES as error:
        logger.info("shapes are not inferred: %s", first_line(error))
        return model


def _step(node: onnx.NodeProto, other: OnnxNode, graph: OnnxGraph, model: onnx.ModelProto, device: str) -> Step:
    try:
        if node.op_type in OPERATORS and node.domain in STANDARD:
            return Step(node, OPERATORS[node.op_type](attributes(node)), list(node.input))
        module, mapping = _converter(other, model)(other, graph)
    except Exception as error:  # whatever onnx2torch raises
        raise ModelError(f"torch does not know {_named(node)}: {first_line(error)}.") from error
    return Step(node, module.eval().to(device), list(mapping.inputs))


def _converter(node: OnnxNode, model: onnx.ModelProto) -> Callable[..., Any]:
    """onnx2torch's converter of the newest version that it has; whether that does the same is seen by its outputs."""
    versions = {o.domain: o.version for o in model.opset_import}
    newest = opset_of(model) if node.domain in STANDARD else versions[node.domain]
    for version in range(newest, 0, -1):
        try:
            return get_converter(node.operation_type, version, node.domain)  # type: ignore[no-any-return]
        except NotImplementedError:
            continue
    raise UnsupportedError("onnx2torch has no such operator")


def _named(node: onnx.NodeProto) -> str:
    return f"the {node.op_type} {node.name or next(iter(node.output), '')!r}"
