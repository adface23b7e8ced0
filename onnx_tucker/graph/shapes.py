"""Static shapes of a model's tensors, for a given size of its free dimensions.

Inference runs on a copy without the weights, so it costs no memory to speak of and has no size limit. The shapes
are used to count and to time; they never enter the output model.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from onnx_tucker.errors import UsageError
from onnx_tucker.graph import external
from onnx_tucker.graph.check import FAILURES
from onnx_tucker.graph.fold import WHOLE, Size, fold
from onnx_tucker.graph.nodes import STANDARD, UNKNOWN, attributes, graphs, inputs_of
from onnx_tucker.graph.skeleton import skeleton

logger = logging.getLogger(__name__)

Shapes = dict[str, tuple[int, ...]]
Partial = dict[str, tuple[Size, ...]]
"""Shapes in which some sizes are not known."""
FLOAT = onnx.TensorProto.FLOAT
EXACT = 1024
"""Scales of so many parts are exact in any arithmetic."""
LISTED = 2**16
"""Numbers in a row up to which it is followed what they are. onnx lists them all, known or not: of a damaged model that
claims 2**31 of them, in all of the memory.
"""


def infer(
    model: onnx.ModelProto,
    folder: Path,
    input_shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
    samples: Mapping[str, tuple[int, ...]] | None = None,
) -> Shapes:
    """Shapes of all tensors whose every dimension is known.

    A free first dimension counts as 1 unless it is given.

    Args:
        model: any model; it is not changed.
        folder: where its file is.
        input_shapes: whole shapes of inputs by name.
        dims: sizes of symbolic dimensions by name.
        samples: shapes of inputs in the data, which hold for dimensions that nothing else gives.

    Raises:
        UsageError: a name is no input or dimension of the model, or a shape contradicts the model's.
    """
    bare = skeleton(model, folder)
    _without_claims(bare)
    inputs = _own_inputs(bare, model)
    _check_names(inputs, input_shapes, dims)
    sizes = _first_dims(inputs) | _symbols(inputs, input_shapes) | dict(dims)
    for value in inputs:
        _fix(value, input_shapes.get(value.name), sizes, (samples or {}).get(value.name))
    for value in inputs:
        if (_shape(value) or ())[:1] == (0,):
            raise UsageError(f"The input {value.name} would have no samples; give its first size another value than 0.")
    for graph in graphs(bare):
        for value in (*graph.input, *graph.value_info):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in sizes:
                    dim.dim_value = sizes[dim.dim_param]
    return _whole(_inferred(bare, logging.WARNING)[0])


class Declared(NamedTuple):
    """What a model itself fixes.

    Attributes:
        shapes: of its values, with names or None for sizes that it leaves open.
        numbers: the whole numbers that nodes of the main graph compute from them and from constants, by name, and
            constants that are cast to the type of a value.
    """

    shapes: Partial
    numbers: Mapping[str, onnx.TensorProto]


def declared(model: onnx.ModelProto, folder: Path) -> Declared:
    """Shapes of all tensors as far as the model itself fixes them, and what follows from that.

    Args:
        model: any model; it is not changed.
        folder: where its file is.
    """
    bare = skeleton(model, folder)
    _without_claims(bare)
    if not all(isinstance(size, int) for value in _own_inputs(bare, model) for size in _shape(value) or (None,)):
        for value in bare.graph.value_info:  # which may be of the size that the model was traced with
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    replaceable = {value.name for value in model.graph.input} if model.ir_version >= 4 else set()
    for i in reversed(range(len(bare.graph.initializer))):
        if bare.graph.initializer[i].name in replaceable:
            del bare.graph.initializer[i]
    bare.opset_import.add(domain=UNKNOWN, version=1)
    fold(bare, {})
    constants = {tensor.name: tensor for tensor in bare.graph.initializer}
    for node in bare.graph.node:
        if _disputed(node, constants):
            node.domain = UNKNOWN
    shapes, bare = _inferred(bare, logging.INFO)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    made = (tensor for tensor in bare.graph.initializer if tensor.name in makers)
    numbers = (one for one in made if one.data_type in WHOLE or makers[one.name] == "CastLike")
    return Declared(shapes, {tensor.name: tensor for tensor in numbers})


def _disputed(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether onnx may infer other sizes for a node than onnxruntime computes.

    So it is where sizes are rounded up, where they are multiplied by what has no exact value or is computed, and where
    the pads that keep them the same depend on dilations or on what is added to the output.
    """
    given = attributes(node)
    if given.get("ceil_mode"):
        return True
    if node.op_type in ("Resize", "Upsample"):
        name = next(iter(node.input[2:3] if len(node.input) > 2 else node.input[1:2]), "")
        if name and (name not in constants or constants[name].data_type != FLOAT):
            return True
        scales = external.values(constants[name], Path()).ravel().tolist() if name else _listed(given.get("scales"))
        return any(scale * EXACT % 1 for scale in scales)
    padding, dilations = (_listed(given.get(name)) for name in ("output_padding", "dilations"))
    added = any(padding) or any(dilation != 1 for dilation in dilations)
    return node.op_type != "Conv" and str(given.get("auto_pad")).startswith("SAME") and added


def _listed(value: Any) -> list[Any]:
    """The numbers of an attribute; none where it is none that has several, as in damaged models."""
    return value if isinstance(value, list) else []


def _inferred(bare: onnx.ModelProto, level: int) -> tuple[Partial, onnx.ModelProto]:
    """Shapes as far as they follow from those of the inputs, and the model with what is computed from them held.

    What cannot be inferred is said at so high a `level` of the log.
    """
    known: Partial = {}
    while True:
        folded = fold(bare, known)
        if known and not folded:
            return known, bare
        try:
            bare = _seen_through(bare)
        except FAILURES as error:
            logger.log(level, "Shapes cannot be inferred, so FLOPs are not known: %s", str(error).partition("\n")[0])
            return known, bare
        known = _known(bare)
        if not known:
            return known, bare


def _seen_through(bare: onnx.ModelProto) -> onnx.ModelProto:
    """A model with the shapes that are inferred, also of what is reshaped to sizes that are computed, where that works.

    Raises:
        FAILURES: they cannot be inferred.
    """
    plain = onnx.shape_inference.infer_shapes(bare)
    if any(len(shape) == 1 and isinstance(shape[0], int) and shape[0] > LISTED for shape in _known(plain).values()):
        return plain
    try:
        return onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except FAILURES:
        return plain


def _whole(partial: Partial) -> Shapes:
    """The shapes without any free size."""
    sizes = {name: tuple(size for size in shape if isinstance(size, int)) for name, shape in partial.items()}
    return {name: shape for name, shape in sizes.items() if len(shape) == len(partial[name])}


def _known(model: onnx.ModelProto) -> Partial:
    """Shapes of the values of all scopes; names that stand for values of several bodies are left out."""
    known: Partial = {}
    scopes: Counter[str] = Counter()
    for graph in graphs(model):
        held = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        made = {name for node in graph.node for name in node.output}
        scopes.update({value.name for value in graph.input} | made | held.keys())
        known |= held
        for value in (*graph.input, *graph.value_info, *graph.output):
            shape = _shape(value)
            if shape is not None:
                known[value.name] = shape
    return {name: shape for name, shape in known.items() if scopes[name] < 2}


def _own_inputs(bare: onnx.ModelProto, model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs of a model, as they are in a copy without its weights."""
    names = inputs_of(model)
    return [value for value in bare.graph.input if value.name in names and value.type.HasField("tensor_type")]


def _without_claims(bare: onnx.ModelProto) -> None:
    """Removes what the model says of the shapes of values, in place.

    What is said of the outputs of unknown operators is all there is to know of them; elsewhere it may have been said
    for another batch size. Fused operators become the ones that inference knows.
    """
    graph = bare.graph
    for node in graph.node:
        _unfuse(node)
    foreign = {o for node in graph.node if node.domain not in STANDARD for o in node.output}
    claims = [value for value in graph.value_info if value.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(claims)
    for value in graph.output:
        if value.name not in foreign and value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
FUSED = {
    "FusedConv": ("Conv", CONV, 3),
    "FusedGemm": ("Gemm", ("alpha", "beta", "transA", "transB"), 3),
    "FusedMatMul": ("MatMul", (), 2),
}
"""onnxruntime's operators that have the shapes of a standard one, which has these attributes and inputs."""


def _unfuse(node: onnx.NodeProto) -> None:
    if node.op_type not in FUSED or node.domain != "com.microsoft":
        return
    op_type, names, inputs = FUSED[node.op_type]
    if op_type == "MatMul" and any(a.name.startswith("trans") and a.i for a in node.attribute):
        return
    kept = [attribute for attribute in node.attribute if attribute.name in names]
    node.op_type, node.domain = op_type, ""
    del node.attribute[:], node.input[inputs:]
    node.attribute.extend(kept)


def _check_names(
    given: Iterable[onnx.ValueInfoProto], input_shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, int]
) -> None:
    inputs = {value.name: value for value in given}
    for name, shape in input_shapes.items():
        if name not in inputs:
            raise UsageError(f"--input-shape {name}: the model has no such input; it has {', '.join(sorted(inputs))}.")
        declared = inputs[name].type.tensor_type
        if declared.HasField("shape"):
            sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in declared.shape.dim]
            if len(sizes) != len(shape) or any(a and a != b for a, b in zip(sizes, shape, strict=True)):
                wanted = ",".join(str(d.dim_value or d.dim_param or "?") for d in declared.shape.dim)
                raise UsageError(f"--input-shape {name}:{','.join(map(str, shape))} does not fit the model's {wanted}.")
    symbols = {d.dim_param for v in inputs.values() for d in v.type.tensor_type.shape.dim} - {""}
    for name in dims:
        if name not in symbols:
            there = ", ".join(sorted(symbols)) or "none"
            raise UsageError(f"--dim {name}: no input has such a dimension; there is {there}.")
    for name, size in _symbols(inputs.values(), input_shapes).items():
        if dims.get(name, size) != size:
            raise UsageError(f"--dim {name}={dims[name]}, but an --input-shape gives {name} the size {size}.")


def _first_dims(inputs: Iterable[onnx.ValueInfoProto]) -> dict[str, int]:
    """Size 1 for the symbols that stand first in an input, so that they are 1 wherever else they stand.

    One that stands behind another symbol in some input, as a height behind a batch, is no size of a batch.
    """
    shapes = [[dim.dim_param for dim in v.type.tensor_type.shape.dim] for v in inputs]
    behind = {name for names in shapes if names and names[0] for name in names[1:] if name != names[0]}
    return {names[0]: 1 for names in shapes if names and names[0] and names[0] not in behind}


def _symbols(inputs: Iterable[onnx.ValueInfoProto], input_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes of the symbols in inputs whose whole shape is given."""
    return {
        dim.dim_param: size
        for value in inputs
        if value.name in input_shapes
        for dim, size in zip(value.type.tensor_type.shape.dim, input_shapes[value.name], strict=False)
        if dim.dim_param
    }


def _fix(
    value: onnx.ValueInfoProto,
    given: tuple[int, ...] | None,
    sizes: Mapping[str, int],
    sample: tuple[int, ...] | None,
) -> None:
    """Gives every dimension of an input the size that is known for it."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        given = given or sample
    if given is not None:
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, tensor.elem_type, list(given)))
        return
    for i, dim in enumerate(tensor.shape.dim):
        if dim.dim_param in sizes:
            dim.dim_value = sizes[dim.dim_param]
        elif dim.dim_value <= 0 and ((i == 0 and not dim.dim_param) or sample is not None):
            dim.dim_value = 1 if sample is None else sample[i]


def _shape(value: onnx.ValueInfoProto) -> tuple[Size, ...] | None:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or not tensor.HasField("shape"):
        return None
    return tuple(
        d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None for d in tensor.shape.dim
    )
