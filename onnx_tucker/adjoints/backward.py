"""Derivatives of a model's outputs with respect to values of its main graph, by reverse accumulation.

onnxruntime runs the model once, with the values that are needed as outputs; then derivatives pass from the last node
to the first (`adjoints`). Where a node has no rule, what lies before it has no derivatives, as a part would be missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from onnx_tucker.adjoints import RULES, Call, Run, Value
from onnx_tucker.errors import UnsupportedError
from onnx_tucker.graph.fold import SIZES
from onnx_tucker.graph.nodes import STANDARD, attributes
from onnx_tucker.graph.segment import between, model_of, probe, uses
from onnx_tucker.graph.view import View
from onnx_tucker.runtime.session import FAILURES, Feed, Machine, first_line, run_named

logger = logging.getLogger(__name__)

OPSET = 13
"""Of the operators that derivatives are computed with."""


class Backward:
    """Derivatives with respect to some values.

    Args:
        view: the graph.
        machine: how sessions run.
        folder: what the model's external data is relative to.
        wanted: names of the values.
        ends: names of what is derived; the model's outputs, or values that they follow from.

    Attributes:
        outputs: those of the ends that follow from the values, but for outputs that are not in single precision.

    Raises:
        FAILURES: onnxruntime cannot run the model with these values as outputs.
    """

    def __init__(
        self, view: View, machine: Machine, folder: Path, wanted: Collection[str], ends: Sequence[str]
    ) -> None:
        self._view, self._machine, self._wanted = view, machine, wanted
        graph = view.model.graph
        others = {output.name for output in graph.output if not _single(output)}
        ends = [name for name in ends if name not in others]
        self._path = self._on_the_way(ends)
        self._varying = {*wanted, *(name for node in self._path for name in node.output if name)}
        self.outputs = [name for name in ends if name in self._varying]
        held = {name for node in self._path for name in (*node.input, *node.output) if name}
        constants = {name for name in held if view.constant(name) is not None}
        inputs = {value.name for value in graph.input}
        fetched = sorted({*held, *self.outputs} - constants - inputs)
        self._session = machine.session(probe(view.model, fetched), folder, arena=False)
        self._runners: dict[bytes, Any] = {}
        self._impassable: set[str] = set()  # which is said once

    @property
    def held(self) -> set[str]:
        """Names of the values that are held at the same time."""
        return {output.name for output in self._session.get_outputs()}

    def _on_the_way(self, ends: Collection[str]) -> list[onnx.NodeProto]:
        """The nodes between the values and the outputs."""
        varying, path = {*self._wanted}, []
        for node in between(self._view.model.graph.node, (), ends):
            if not varying.isdisjoint(uses(node)) and node.op_type not in SIZES:
                path.append(node)
                varying.update(name for name in node.output if name)
        return path

    def run(self, feed: Feed, weights: Callable[[Feed], Feed]) -> Iterator[tuple[str, Value]]:
        """The derivatives of a weighted sum of the outputs, as far as they are known.

        Args:
            feed: the inputs.
            weights: of the elements of outputs, by name, from what the outputs are.

        Yields:
            The names of values, the last first, and derivatives of the same shapes.
        """
        values = {**feed, **run_named(self._session, feed)}
        single = {name: values[name] for name in self.outputs if values[name].dtype == np.float32}
        changes: dict[str, Value] = dict(weights(single))
        lost: set[str] = set()
        for node in reversed(self._path):
            yield from self._told(node.output, changes, lost)
            made = [changes.pop(name, None) for name in node.output]
            before = [name for name in uses(node) if name in self._varying]
            if not lost.isdisjoint(node.output):
                lost.update(before)
                continue
            if all(change is None for change in made):
                continue
            try:
                taken = [name for name in before if _has_fractions(values.get(name))]
                with np.errstate(all="ignore"):  # of samples that are not finite
                    self._through(node, values, made, taken, changes)
            except (*FAILURES, LookupError, UnsupportedError, TypeError) as error:
                if not self._impassable.issuperset(node.output):
                    logger.info("derivatives do not pass the %s %s: %s", node.op_type, node.name, first_line(error))
                self._impassable.update(node.output)
                lost.update(before)
        yield from self._told(self._wanted, changes, lost)

    def _told(
        self, names: Collection[str], changes: Mapping[str, Value], lost: Collection[str]
    ) -> Iterator[tuple[str, Value]]:
        yield from ((n, changes[n]) for n in names if n in self._wanted and n in changes and n not in lost)

    def _through(
        self,
        node: onnx.NodeProto,
        values: Mapping[str, Value],
        made: Sequence[Value | None],
        taken: Collection[str],
        changes: dict[str, Value],
    ) -> None:
        if node.domain not in STANDARD or node.op_type not in RULES:
            raise UnsupportedError("there is no rule for it")
        inputs = [self._read(name, values) if name else None for name in node.input]
        outputs = [values.get(name) for name in node.output]
        call = Call(node.op_type, attributes(node), self._view.context.opset, inputs, outputs, self._runner(node))
        for i, name in enumerate(node.input):
            if name in taken:
                found = RULES[node.op_type](call, made, i)
                changes[name] = changes[name] + found if name in changes else found

    def _read(self, name: str, values: Mapping[str, Value]) -> Value:
        constant = self._view.constant(name) if name not in values else None
        return values[name] if constant is None else constant.read()

    def _runner(self, node: onnx.NodeProto) -> Run:
        def run(inputs: Sequence[Value | None], op: str = "", outputs: int = 0, **given: Any) -> list[Value]:
            names = ["" if value is None else f"x{i}" for i, value in enumerate(inputs)]
            known = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
            fixed = {}
            if node.op_type == "Resize" and not op:  # shapes are inferred from no sizes but constant ones
                fixed = {name: known.pop(name) for name in [*known] if known[name].dtype == np.int64}
            made = [f"y{i}" for i in range(outputs or (1 if op else len(node.output)))]
            model = self._alone(node, op, names, made, known, fixed, given)
            if model not in self._runners:  # with threads of its own for each there would be hundreds
                self._runners[model] = replace(self._machine, threads=1).session(model, arena=False)
            return [np.asarray(array) for array in self._runners[model].run(made, known)]

        return run

    def _alone(
        self,
        node: onnx.NodeProto,
        op: str,
        inputs: Sequence[str],
        made: Sequence[str],
        known: Mapping[str, NDArray[Any]],
        fixed: Mapping[str, NDArray[Any]],
        given: Mapping[str, Any],
    ) -> bytes:
        """A model of the node, or of an operator in its place, with what is fixed in it."""
        tensors = {name: numpy_helper.from_array(array, name) for name, array in fixed.items()}
        copy = onnx.NodeProto()
        if op:
            copy = helper.make_node(op, inputs, made, **given)
            opsets = [helper.make_opsetid("", OPSET)]  # onnxruntime may be older than onnx's newest format
            oldest = helper.find_min_ir_version_for(opsets)
            bare = helper.make_model(helper.make_graph([], "", [], []), ir_version=oldest, opset_imports=opsets)
            return model_of(bare, [copy], tensors, known, made)
        copy.CopyFrom(node)
        copy.name = copy.doc_string = ""
        copy.ClearField("metadata_props")
        del copy.input[:], copy.output[:]
        copy.input.extend(inputs)
        copy.output.extend(made)
        return model_of(self._view.model, [copy], tensors, known, made)


def _has_fractions(value: object) -> bool:
    """Whether a value may have derivatives; a sequence, or one that is not known, may."""
    return not isinstance(value, np.ndarray) or value.dtype.kind == "f"


def _single(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
