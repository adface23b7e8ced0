"""What forms cost."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from onnx_tucker import forms
from onnx_tucker.graph.segment import probe
from onnx_tucker.planning.ways import forms_of
from tests.helpers import Array, conv_model, factorised, look, session


def multiplications(made: onnx.ModelProto, x: Array) -> int:
    """Of all convolutions and products of what is not constant, for the shapes that values have on an input."""
    nodes, constant = made.graph.node, {tensor.name for tensor in made.graph.initializer}
    names = [name for node in nodes for name in node.output]
    values = session(probe(made, names)).run(names, {"x": x})
    shapes = dict(zip(names, (value.shape for value in values), strict=True)) | {"x": x.shape}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    total = 0
    for node in nodes:
        if constant.issuperset(node.input):
            constant.update(node.output)
        elif node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return total


@pytest.mark.parametrize(
    ("shape", "size", "attributes"),
    [
        ((6, 4, 3, 3, 3), (6, 8, 8), {"pads": [1] * 6}),
        ((6, 4, 3, 3, 3), (7, 8, 8), {"strides": [2, 1, 2]}),
        ((20, 4, 3, 1, 1), (8, 5, 5), {"pads": [1, 0, 0] * 2}),
        ((4, 3, 1, 3, 3), (5, 6, 6), {}),
        ((8, 2, 3, 3, 3), (6, 8, 8), {"group": 2}),
        ((8, 1, 3, 3, 3), (6, 8, 8), {"group": 8, "pads": [1] * 6}),
    ],
)
def test_multiplications_of_forms_are_those_of_their_nodes(
    shape: tuple[int, ...], size: tuple[int, ...], attributes: dict[str, object]
) -> None:
    made = conv_model(np.random.default_rng(0).random(shape, np.float32), size=size, **attributes)
    context, [found] = look(made)
    x = np.zeros((1, *found.site.input_shape[1:]), np.float32)
    tried = [form for form in forms_of(context, found, [found.site.stage]) if form.on_frames]
    assert tried
    for form in tried:
        lowered = factorised(made, {"conv": (None, None, str(form))})
        assert forms.macs([found.site.stage], x.shape, form) == multiplications(lowered, x), form
