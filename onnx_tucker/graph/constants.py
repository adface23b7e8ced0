"""All values of a model: which of them are the same on every run, and what uses them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_tucker.graph.constant import ARRANGING, COMPUTING, FLOATS, PARTING, Constant, Step, Value
from onnx_tucker.graph.fold import SIZES
from onnx_tucker.graph.nodes import STANDARD, Place, Scope, attributes, bodies

RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
"""Operators that may give something else each time that they are given the same."""
MOST = 128
"""Nodes that are evaluated at most to make a constant."""


class Constants:
    """All values of a model by scope, and how often each is used.

    Attributes:
        main: the scope of the main graph.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        places: Sequence[Place],
        folder: Path,
        numbers: Mapping[str, onnx.TensorProto],
        *,
        overridable: bool,
    ) -> None:
        """Looks the model over.

        Args:
            model: any model.
            places: its nodes.
            folder: where its file is.
            numbers: what nodes of the main graph give that follows from the shapes of its values, by name.
            overridable: whether a caller may replace initializers that are graph inputs.
        """
        self._model, self._folder, self._numbers = model, folder, numbers
        main = (place.scope for place in places if place.scope.outer is None and not place.scope.function)
        self.main = next(main, Scope(model.graph))
        self._known: dict[Value, Constant | None] = {}
        self._varying: dict[Value, bool] = {}
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
        self._measured = [(value, place) for value, place in used if self._measures(place, value)]
        self._uses.subtract(value for value, _ in self._measured)

    def uses(self, value: Value) -> int:
        """How many node inputs, graph outputs and quantization annotations, in all scopes, need the value.

        Nodes that only tell the size of a constant need no more than that; see `sizes`.
        """
        return self._uses[value]

    def sizes(self, dead: Collection[Value]) -> Iterator[tuple[Place, NDArray[np.int64]]]:
        """Nodes that tell the sizes of constants that are not needed otherwise, with what they give.

        Args:
            dead: all values that nothing needs.
        """
        for value, place in self._measured:
            constant, node = self._constant(value), place.node
            if constant is not None and value in dead and Value(place.scope, node.output[0]) not in dead:
                given, shape = attributes(node), constant.shape
                some = shape[given.get("start", 0) : given.get("end")]
                yield place, np.array(some if node.op_type == "Shape" else math.prod(shape), np.int64)

    def _measures(self, place: Place, value: Value) -> bool:
        """Whether a node takes a constant for its size only."""
        sizes = place.node.op_type in SIZES and place.node.domain in STANDARD
        return sizes and self.find(value.name, value.scope) is not None

    def freed(self, lost: Sequence[Value]) -> set[Value]:
        """What nothing needs any more once constants have lost uses, and what they were made from.

        Args:
            lost: the constants, each as often as it has lost a use.
        """
        gone, dead, queue = Counter[Value](), set[Value](), list(lost)
        while queue:
            value = queue.pop()
            gone[value] += 1
            definition = self._defined[value.scope][value.name]
            if definition is None or value in dead or gone[value] < self.uses(value):
                continue
            dead.add(value)
            if isinstance(definition, onnx.NodeProto):
                others = self._values(value.scope, definition.output)
                if all(gone[other] >= self.uses(other) for other in others):
                    dead.update(others)
                    queue += [] if definition.op_type in SIZES else self._values(value.scope, definition.input)
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

    def fixed(self, name: str, scope: Scope) -> Constant | None:
        """The same, if it can be read and callers cannot give another."""
        constant = self.find(name, scope)
        return None if constant is None or self.overridable(constant) or not constant.readable else constant

    def _constant(self, value: Value) -> Constant | None:
        """The constant that a value is, be it readable or not, after all those that it is made of."""

        def needed(one: Value) -> Sequence[Value]:
            maker = self._maker(one)
            return self._values(one.scope, maker.input) if maker is not None else ()

        for one in _in_order(value, self._known, needed):
            self._known[one] = self._made(one)
        return self._known[value]

    def _maker(self, value: Value) -> onnx.NodeProto | None:
        """The node that makes a value of others, if it is evaluated where those are constant."""
        node = self._defined[value.scope][value.name]
        if not isinstance(node, onnx.NodeProto) or (len(node.output) != 1 and node.op_type not in PARTING):
            return None
        return node if node.op_type in COMPUTING and node.domain in STANDARD else None

    def _made(self, value: Value) -> Constant | None:
        """The constant that a value is, when all that it is made of is known."""
        tensor, maker = held(self._defined[value.scope][value.name]), self._maker(value)
        if tensor is None and value.scope is self.main:
            tensor = self._numbers.get(value.name)
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

    def behind(self, name: str, scope: Scope, layers: Collection[str]) -> tuple[bool, bool]:
        """Whether a value follows from inputs of the model or what layers give, and whether from a stored matrix too.

        Args:
            name: of the value.
            scope: where it is used.
            layers: operators whose weights are their own, and what those take too.
        """
        queue, seen, given, stored = self._values(scope, [name]), set[Value](), False, False
        while queue:
            value = queue.pop()
            definition = self._defined[value.scope][value.name]
            tensor = held(definition)
            stored |= tensor is not None and sum(size > 1 for size in tensor.dims) >= 2
            if definition is None:
                inside = value.scope is not self.main or value.name in self._sparse  # what it stands for is not known
                given, stored = given or not inside, stored or inside
            elif tensor is None and value not in seen and isinstance(definition, onnx.NodeProto):
                seen.add(value)
                given |= definition.op_type in layers
                queue += [] if definition.op_type in layers else self._used(Place("", definition, value.scope))
        return given, stored

    def varies(self, name: str, scope: Scope) -> bool:
        """Whether a value may be another on another run: unless it follows from stored values by standard operators.

        Args:
            name: of the value.
            scope: where it is used.
        """
        value = self._value(name, scope)
        if value is None:
            return True
        for one in _in_order(value, self._varying, lambda one: self._sources(one) or ()):
            sources = self._sources(one)  # what is not known by now needs this itself, which no run can give
            self._varying[one] = sources is None or any(self._varying.get(other, True) for other in sources)
        return self._varying[value]

    def _sources(self, value: Value) -> Sequence[Value] | None:
        """What a value follows from; None where callers give it, or a node that need not give the same again."""
        definition = self._defined[value.scope][value.name]
        if isinstance(definition, onnx.NodeProto):
            known = definition.domain in STANDARD and definition.op_type not in RANDOM
            if not known or any(bodies(attribute) for attribute in definition.attribute):
                return None
            return self._values(value.scope, definition.input)
        main = value.scope is self.main
        if definition is None:
            return () if main and value.name in self._sparse else None
        return None if main and value.name in self._inputs else ()

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


def _in_order(value: Value, known: Collection[Value], needed: Callable[[Value], Sequence[Value]]) -> Iterator[Value]:
    """Values that are not known, each after those that it needs, and the value itself last.

    Args:
        value: the one that is asked for.
        known: those that are, among them each one that was given before the next.
        needed: what one needs; where values need each other, some are given before what they need.
    """
    stack, seen = [] if value in known else [value], set[Value]()
    while stack:
        one = stack[-1]
        seen.add(one)
        left = [other for other in needed(one) if other not in known and other not in seen]
        if left:
            stack += left
            continue
        stack.pop()
        if one not in known:
            yield one


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
