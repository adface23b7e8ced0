"""Finds every weight-bearing node of a model, and what can be done with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import onnx

from onnx_tucker.graph.nodes import Place, bodies, places
from onnx_tucker.graph.ops import OPS, uncovered
from onnx_tucker.graph.ops.op import Context, Reading, refuse
from onnx_tucker.graph.shapes import Shapes
from onnx_tucker.types import Site, Skip

COUNTED = {"ConvTranspose": uncovered.conv_transpose, "MatMul": uncovered.matmul}


@dataclass(frozen=True, eq=False)
class Found:
    """A weight-bearing node and its reading."""

    place: Place
    reading: Reading

    @property
    def site(self) -> Site:
        """The site; only for nodes that were not skipped."""
        if isinstance(self.reading.found, Skip):
            raise TypeError(f"{self.place.label} is skipped: {self.reading.found.reason}")
        return self.reading.found


def context_of(model: onnx.ModelProto, shapes: Shapes) -> Context:
    """The surroundings of all nodes of the main graph."""
    graph = model.graph
    initializers = {t.name: t for t in graph.initializer}
    inputs = {v.name for v in graph.input}
    uses = Counter(o.name for o in graph.output)
    for place in places(model):
        uses.update(place.node.input)
        for attribute in place.node.attribute:
            uses.update(output.name for body in bodies(attribute) for output in body.output)
    for training in model.training_info:
        for binding in (*training.initialization_binding, *training.update_binding):
            uses.update([binding.key, binding.value])
        uses.update(name for node in (*training.initialization.node, *training.algorithm.node) for name in node.input)
    return Context(
        initializers=initializers,
        overridable=frozenset(inputs & set(initializers)) if model.ir_version >= 4 else frozenset(),
        uses=uses,
        shapes=shapes,
        opset=next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1),
    )


def find(model: onnx.ModelProto, context: Context) -> list[Found]:
    """All weight-bearing nodes in the order of the file; every Conv, ConvTranspose, Gemm and MatMul is among them."""
    found: list[Found] = []
    counted: set[str] = set()
    for place in places(model):
        reading = _read(place, context)
        if reading is None:
            continue
        weights = [name for name in place.node.input if name in context.initializers]
        if reading.params and weights and counted.issuperset(weights):
            reading = replace(reading, params=0, bias_params=0)  # shared weights are counted where they come first
        counted.update(weights)
        found.append(Found(place, reading))
    return found


def _read(place: Place, context: Context) -> Reading | None:
    op_type, standard = place.node.op_type, place.node.domain in ("", "ai.onnx")
    linear = standard and (op_type in OPS or op_type in COUNTED)
    if place.scope:
        return refuse(place, f"it is inside {place.scope}") if linear else None
    if not linear:
        return uncovered.other(place, context)
    if op_type in COUNTED:
        return COUNTED[op_type](place, context)
    return OPS[op_type].read(place, context)
