"""Small models, and running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.factor import METHODS
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.find import Found, context_of, find
from onnx_tucker.graph.nodes import Names, tensors
from onnx_tucker.graph.piece import store
from onnx_tucker.graph.shapes import declared, infer
from onnx_tucker.graph.splice import splice
from onnx_tucker.types import Candidate, Chain

ROOT = Path(__file__).resolve().parent.parent
STROKES = ROOT / "models" / "strokes.onnx"
REAL = ROOT.parent / "shared" / "real"  # trained models of other people, where somebody has put them

Array = NDArray[Any]


def low_rank(rng: np.random.Generator, rank: int, *shape: int, noise: float = 0.02) -> Array:
    """A weight whose output channels span `rank` dimensions, and its input channels too, but for some noise."""
    out, inp, *kernel = shape
    core = rng.standard_normal((rank, rank, *kernel))
    weight = np.einsum("ob,ba...,ai->oi...", rng.standard_normal((out, rank)), core, rng.standard_normal((rank, inp)))
    weight /= weight.std()
    weight += noise * rng.standard_normal(shape)
    return (weight / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def model(
    nodes: Sequence[onnx.NodeProto],
    tensors: Mapping[str, Array],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Mapping[str, int],
    *,
    opset: int = 18,
    ir_version: int = 9,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from nodes, initializers, input shapes and output ranks."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(n, dtype, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, dtype, [None] * r) for n, r in outputs.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()],
    )
    made = helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])
    if ir_version < 4:
        made.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in made.graph.initializer
        )
    return made


def conv_model(
    weight: Array, bias: bool = True, size: Sequence[int | str] = (), opset: int = 18, **attributes: Any
) -> onnx.ModelProto:
    """One Conv on an input of spatial size `size`, 8 an axis unless given."""
    axes = weight.ndim - 2
    groups = attributes.get("group", 1)
    tensors = {"w": weight}
    if bias:
        tensors["b"] = np.linspace(-1, 1, len(weight), dtype=weight.dtype)
    node = helper.make_node("Conv", ["x", *tensors], ["y"], "conv", **attributes)
    shape = ["n", weight.shape[1] * groups, *(size or [8] * axes)]
    return model([node], tensors, {"x": shape}, {"y": axes + 2}, opset=opset)


def two_layers(seed: int = 0, rank: int = 3) -> onnx.ModelProto:
    """Conv (low rank), Relu, global pool, Flatten, Gemm (low rank): both layers are worth factorising."""
    rng = np.random.default_rng(seed)
    tensors = {
        "conv.weight": low_rank(rng, rank, 32, 24, 3, 3),
        "conv.bias": rng.standard_normal(32).astype(np.float32),
        "fc.weight": low_rank(rng, rank, 48, 32),
        "fc.bias": rng.standard_normal(48).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], "fc", transB=1),
    ]
    return model(nodes, tensors, {"x": ["n", 24, 16, 16]}, {"y": 2})


def look(made: onnx.ModelProto, folder: Path | None = None, **options: bool) -> tuple[Context, list[Found]]:
    """A model's surroundings and its weight-bearing nodes; options as of `context_of` and `find`."""
    beside = folder or Path()
    again = options.pop("refactorize", False)
    context = context_of(made, infer(made, beside, {}, {}), declared(made, beside), beside, **options)
    return context, find(made, context, refactorize=again)


def reasons(made: onnx.ModelProto, **options: bool) -> dict[str, str]:
    """Why each weight-bearing node is skipped; empty for sites."""
    found = look(made, **options)[1]
    return {f.label: f.reading.result.reason if not f.is_site else "" for f in found}


def candidate(one: Found, method: str | None, ranks: tuple[int, ...] | None = None, form: str = "direct") -> Candidate:
    """What a node becomes by a method, at full ranks unless given; without one, the node in another form."""
    stage = one.site.stage
    if method is None:
        return Candidate(None, None, (stage,), 0.0, form)
    ranks = ranks or METHODS[method].dimensions(stage)
    return Candidate(method, ranks, METHODS[method].stages(stage, ranks), 0.0, form)


def stored(one: Found, planned: Candidate, names: Names) -> list[onnx.TensorProto]:
    """The weights of that, as they go into the model."""
    weight, stage = one.site.read(), one.site.stage
    if planned.method is None or planned.ranks is None:
        return store(one, planned, Chain((stage,), (weight,)), names)
    return store(one, planned, METHODS[planned.method].chain(weight, stage, planned.ranks), names)


def factorised(
    made: onnx.ModelProto,
    methods: Mapping[str, tuple[str | None, tuple[int, ...] | None] | tuple[str | None, tuple[int, ...] | None, str]],
    folder: Path | None = None,
    **options: bool,
) -> onnx.ModelProto:
    """The model with a chain in the place of each node in `methods`: method, ranks (None: full) and perhaps form."""
    context, found = look(made, folder, **options)
    names = Names(made)
    planned = {f.label: candidate(f, *methods[f.label]) for f in found if f.label in methods}
    weights: dict[str, list[onnx.TensorProto]] = {}
    for one in (f for f in found if f.label in planned):
        label = one.label
        weights[label] = weights[one.group] if one.group in weights else stored(one, planned[label], names)
    return splice(made, planned, weights, found, context)


def load_whole(path: Path) -> onnx.ModelProto:
    """A model from a file with its external data in it, as if it had never been outside."""
    made = onnx.load(path)
    for tensor in tensors(made):
        tensor.ClearField("data_location")
    return made


def session(proto: onnx.ModelProto | bytes) -> ort.InferenceSession:
    """A quiet CPU session."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1  # others would wait in loops on the core that a worker has
    content = proto if isinstance(proto, bytes) else proto.SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(proto: onnx.ModelProto | bytes, **feed: Array) -> list[Array]:
    """All outputs of a model."""
    return list(session(proto).run(None, feed))


def relative(a: Array, b: Array) -> float:
    """|a - b| / |a|."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))
