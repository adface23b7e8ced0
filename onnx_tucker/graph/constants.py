"""Values that are the same on every run: where a weight really comes from, and what else uses it.

A weight may be an initializer or the output of a Constant node, of this graph or of one around it. It may pass through
nodes that only arrange its values (`ARRANGING`) on its way to the node that multiplies by it, or be computed from
constants (`COMPUTING`), as normalised, masked and quantised weights are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.errors import ModelError
from onnx_tucker.graph import external
from onnx_tucker.graph.fold import evaluate
from onnx_tucker.graph.nodes import STANDARD, Place, Scope, attributes, bodies

ARRANGING = frozenset(
    ("Cast", "DequantizeLinear", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
"""Operators that give the values of their first input in another shape, order or type."""
COMPUTING = ARRANGING | frozenset(
    "Abs Add BatchNormalization Ceil Clip Concat Div Exp Expand Floor Gather Log Max Mean Min Mul Neg Pad Pow "
    "QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare "
    "Round Shape Sigmoid Sign Slice Sqrt Sub Sum Tanh Where".split()
)
"""Operators that are evaluated where all that they take is constant."""
FEW = 4096
"""Values of a shape or a scale, at most."""
MOST = 128
"""Nodes that are evaluated at most to make a constant."""


class Value(NamedTuple):
    """A value, by the scope that defines it and its name there."""

    scope: Scope
    name: str


class Step(NamedTuple):
    """A node that makes one constant from another.

    Attributes:
        node: the node.
        data: the name by which it takes that.
        others: what it takes besides (shapes, axes, scales), by name.
        output: what it gives.
    """

    node: onnx.NodeProto
    data: str
    others: Mapping[str, Constant]
    output: Value


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that is the same on every run.

    Attributes:
        value: the value itself.
        tensor: what it is made from: an initializer, or the tensor of a Constant node; the largest of several.
        origin: the initializer, or the output of the Constant node.
        steps: by which it is made from that, in the order of computation.
        model: what the nodes are from.
        folder: where the model's file is.
    """

    value: Value
    tensor: onnx.TensorProto
    origin: Value
    steps: tuple[Step, ...]
    model: onnx.ModelProto
    folder: Path

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self._kind[0]

    @property
    def elem_type(self) -> int:
        """ONNX element type of the values."""
        return self._kind[1]

    @property
    def chain(self) -> tuple[Value, ...]:
        """What exists for this value alone, if nothing else uses it: origin, then every step's output."""
        return (self.origin, *(step.output for step in self.steps))

    @property
    def recipe(self) -> Hashable:
        """Alike for constants that are made of the same in the same way, be it by the same nodes or by others."""
        steps = []
        for node, _, others, _ in self.steps:
            if node.op_type != "Identity":
                given = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
                taken = tuple(others[name].ingredient if name in others else not name for name in node.input)
                steps.append((node.op_type, given, taken))
        return self.origin, tuple(steps)

    @property
    def ingredient(self) -> Hashable:
        """What tells it from others that a step may take: its values if they are in the model itself and few."""
        small = not (self.steps or external.is_external(self.tensor)) and math.prod(self.tensor.dims) <= FEW
        return (*self.tensor.dims, external.raw(self.tensor)) if small else self.recipe

    @property
    def arranged(self) -> bool:
        """Whether its values are those of the tensor, but for their order and type."""
        return all(step.node.op_type in ARRANGING for step in self.steps)

    @property
    def counted(self) -> Value:
        """What has all of its values, as they are stored or were computed last."""
        computed = [step.output for step in self.steps if step.node.op_type not in ARRANGING]
        return computed[-1] if computed else self.origin

    @property
    def count(self) -> int:
        """How many values that are."""
        return math.prod(self.tensor.dims) if self.arranged else math.prod(self.shape)

    @property
    def origins(self) -> frozenset[Value]:
        """All that it is made from."""
        others = (other.origins for step in self.steps for other in step.others.values())
        return frozenset([self.origin]).union(*others)

    @property
    def operators(self) -> list[str]:
        """The operators of all nodes that are evaluated to read it, as often as they are."""
        others = (op for step in self.steps for other in step.others.values() for op in other.operators)
        return [*(step.node.op_type for step in self.steps), *others]

    def read(self) -> NDArray[Any]:
        """The values; they are not kept in memory.

        Raises:
            ModelError: they cannot be read or computed.
        """
        array = external.values(self.tensor, self.folder)
        for node, data, others, _ in self.steps:
            taken = {name: other.read() for name, other in others.items()}
            outputs = evaluate(node, {data: array, **taken}, self.model)
            if outputs is None:
                raise ModelError(f"The constant {node.output[0]!r} cannot be computed from {data!r}.")
            array = outputs[node.output[0]]
        return array

    @property
    def readable(self) -> bool:
        """Whether its values can be computed."""
        try:
            return self.shape is not None
        except ModelError:
            return False

    @cached_property
    def _kind(self) -> tuple[tuple[int, ...], int]:
        if not self.steps:
            return tuple(self.tensor.dims), self.tensor.data_type
        array = self.read()
        return array.shape, helper.np_dtype_to_tensor_dtype(array.dtype)


class Constants:
    """All values of a model by scope, and how often each is used.

    Attributes:
        main: the scope of the main graph.
    """

    def __init__(self, model: onnx.ModelProto, places: Sequence[Place], folder: Path, *, overridable: bool) -> None:
        """Looks the model over.

        Args:
            model: any model.
            places: its nodes.
            folder: where its file is.
            overridable: whether a caller may replace initializers that are graph inputs.
        """
        self._model, self._folder = model, folder
        main = (place.scope for place in places if place.scope.outer is None and not place.scope.function)
        self.main = next(main, Scope(model.graph))
        self._known: dict[Value, Constant | None] = {}
        self._sparse = {sparse.values.name for sparse in model.graph.sparse_initializer}
        scopes = dict.fromkeys([self.main, *(place.scope for place in places)])
        self._defined = {scope: _definitions(scope) for scope in scopes}
        self._inputs = {v.name for v in model.graph.input} if overridable and model.ir_version >= 4 else set()
        used = [(value, place) for place in places for value in self._used(place)]
        self._users = dict(used)
        self._uses = Counter(value for value, _ in used)
        for scope in scopes:
            if isinstance(scope.graph, onnx.GraphProto):
                scales = [p.value for a in scope.graph.quantization_annotation for p in a.quant_parameter_tensor_names]
                self._uses.update(self._values(scope, [*(o.name for o in scope.graph.output), *scales]))
        for training in model.training_info:
            bindings = (*training.initialization_binding, *training.update_binding)
            names = [name for binding in bindings for name in (binding.key, binding.value)]
            for graph in (training.initialization, training.algorithm):
                names += [name for node in graph.node for name in node.input]
            self._uses.update(self._values(self.main, names))

    def uses(self, value: Value) -> int:
        """How many node inputs, graph outputs and quantization annotations, in all scopes, need the value."""
        return self._uses[value]

    def freed(self, lost: Sequence[Value]) -> set[Value]:
        """What nothing needs any more once constants have lost uses, and what they were made from.

        Args:
            lost: the constants, each as often as it has lost a use.
        """
        gone, dead, queue = Counter[Value](), set[Value](), list(lost)
        while queue:
            value = queue.pop()
            gone[value] += 1
            if gone[value] >= self.uses(value) and value not in dead:
                dead.add(value)
                definition = self._defined[value.scope][value.name]
                if isinstance(definition, onnx.NodeProto):
                    queue += self._values(value.scope, definition.input)
        return dead

    def stored(self, values: Iterable[Value]) -> list[onnx.TensorProto]:
        """The tensors among values: initializers, and those of Constant nodes."""
        found = (held(self._defined[value.scope][value.name]) for value in values)
        return [tensor for tensor in found if tensor is not None]

    def only_user(self, place: Place) -> Place | None:
        """The node of the same graph that takes the first output of a node, if nothing else does."""
        value = Value(place.scope, place.node.output[0])
        user = self._users.get(value) if self.uses(value) == 1 else None
        return user if user is not None and user.scope is place.scope else None

    def overridable(self, constant: Constant) -> bool:
        """Whether callers may give the value, or something it is computed from, themselves."""
        return any(origin.scope is self.main and origin.name in self._inputs for origin in constant.origins)

    def find(self, name: str, scope: Scope) -> Constant | None:
        """The constant that `name` is in `scope`; None where it is computed or given."""
        value = self._value(name, scope)
        constant = self._constant(value) if value is not None else None
        return constant if constant is None or constant.arranged or constant.readable else None

    def _constant(self, value: Value) -> Constant | None:
        """The constant that a value is, be it readable or not, after all those that it is made of."""
        stack, seen = [] if value in self._known else [value], set[Value]()
        while stack:
            one = stack[-1]
            seen.add(one)
            maker = self._maker(one)
            needed = self._values(one.scope, maker.input) if maker is not None else []
            left = [other for other in needed if other not in self._known and other not in seen]
            if left:
                stack += left
                continue
            stack.pop()
            if one not in self._known:
                self._known[one] = self._made(one)
        return self._known[value]

    def _maker(self, value: Value) -> onnx.NodeProto | None:
        """The node that makes a value of others, if it is evaluated where those are constant."""
        node = self._defined[value.scope][value.name]
        if not isinstance(node, onnx.NodeProto) or len(node.output) != 1:
            return None
        return node if node.op_type in COMPUTING and node.domain in STANDARD else None

    def _made(self, value: Value) -> Constant | None:
        """The same, when all that it is made of is known."""
        tensor, maker = held(self._defined[value.scope][value.name]), self._maker(value)
        if tensor is not None:
            return Constant(value, tensor, value, (), self._model, self._folder)
        others = dict[str, Constant]()
        for name in filter(None, maker.input if maker is not None else ()):
            source = self._value(name, value.scope)
            other = self._known.get(source) if source is not None else None  # none where nodes need each other
            if other is None:
                return None
            others[name] = other
        if maker is None or not others:
            return None

        def rank(name: str) -> tuple[int, bool, int]:
            tensor = others[name].tensor
            return math.prod(tensor.dims), tensor.data_type in FLOATS, -self.uses(others[name].value)

        data = maker.input[0] if maker.op_type in ARRANGING else max(others, key=rank)
        one = others.pop(data)
        step = Step(maker, data, others, value)
        made = Constant(value, one.tensor, one.origin, (*one.steps, step), self._model, self._folder)
        return made if len(made.operators) <= MOST else None

    def given(self, name: str, scope: Scope, layers: Collection[str]) -> bool:
        """Whether a value follows from inputs of the model, and from no stored matrix but those of layers.

        Args:
            name: of the value.
            scope: where it is used.
            layers: operators whose weights are their own.
        """
        queue, seen, inputs = self._values(scope, [name]), set[Value](), False
        while queue:
            value = queue.pop()
            definition = self._defined[value.scope][value.name]
            tensor = held(definition)
            if tensor is not None and sum(size > 1 for size in tensor.dims) >= 2:
                return False
            if definition is None:
                if value.scope is not self.main or value.name in self._sparse:
                    return False
                inputs = True
            elif tensor is None and value not in seen and isinstance(definition, onnx.NodeProto):
                seen.add(value)
                inputs |= definition.op_type in layers
                queue += [] if definition.op_type in layers else self._used(Place("", definition, value.scope))
        return inputs

    def maker(self, name: str, scope: Scope) -> onnx.NodeProto | None:
        """The node of a scope that gives a value."""
        definition = self._defined[scope].get(name)
        return definition if isinstance(definition, onnx.NodeProto) else None

    def _value(self, name: str, scope: Scope | None) -> Value | None:
        """The value that `name` is in `scope`."""
        while name and scope is not None:
            if name in self._defined[scope]:
                return Value(scope, name)
            scope = scope.outer
        return None

    def _values(self, scope: Scope, names: Sequence[str]) -> list[Value]:
        found = (self._value(name, scope) for name in names)
        return [value for value in found if value is not None]

    def _used(self, place: Place) -> list[Value]:
        """What a node uses; a body may also hand a value of the graphs around it straight out."""
        handed_out = [o.name for a in place.node.attribute for body in bodies(a) for o in body.output]
        return self._values(place.scope, [*place.node.input, *handed_out])


Definition = onnx.TensorProto | onnx.NodeProto | None
"""What defines a value: an initializer, a node, or something that is not known before a run."""


def _definitions(scope: Scope) -> dict[str, Definition]:
    graph = scope.graph
    defined: dict[str, Definition] = dict.fromkeys(_input_names(graph))
    if isinstance(graph, onnx.GraphProto):
        defined |= dict.fromkeys(sparse.values.name for sparse in graph.sparse_initializer)
        defined |= {tensor.name: tensor for tensor in graph.initializer}
    defined |= {name: node for node in graph.node for name in node.output if name}
    return defined


def _input_names(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[str]:
    for value in graph.input:
        yield value if isinstance(value, str) else value.name


def held(definition: Definition) -> onnx.TensorProto | None:
    """The tensor that a definition is, or is a Constant node for."""
    if isinstance(definition, onnx.TensorProto):
        return definition
    if definition is None or definition.op_type != "Constant" or definition.domain not in STANDARD:
        return None
    given = attributes(definition)
    if isinstance(given.get("value"), onnx.TensorProto):
        return given["value"]  # type: ignore[no-any-return]  # checked the line before
    numbers = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    name = next((name for name in numbers if name in given), None)
    return numpy_helper.from_array(np.asarray(given[name], numbers[name])) if name else None


def dequantizes(constant: Constant) -> bool:
    """Whether the values are stored as integers and scaled on the way, or rounded as if they were."""
    return constant.tensor.data_type in INTEGERS or "DequantizeLinear" in constant.operators


INTEGERS = (
    TensorProto.INT4,
    TensorProto.UINT4,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.UINT32,
    TensorProto.INT64,
)
"""Element types of what stands for weights."""
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""Element types of weights that are factorised."""
