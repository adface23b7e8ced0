"""Conv with constant weights, any number of spatial axes. Its weight is canonical as it is."""

from __future__ import annotations

import math
from typing import Any

import onnx_graphsurgeon as gs

from onnx_tucker import cost
from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.op import Context, Emission, Op, Reading, bias_size, refuse, values_of
from onnx_tucker.types import Site, Stage, Window


def read(place: Place, context: Context) -> Reading:
    """Reads a Conv node; grouped ones are skipped."""
    node, given = place.node, attributes(place.node)
    bias_params = bias_size(node, context)
    tensor = context.weight(node.input[1])
    if isinstance(tensor, str):
        return refuse(place, tensor, context.initializers.get(node.input[1]), bias_params=bias_params)
    out, inp, *kernel = tensor.dims
    axes = len(kernel)
    window = Window(
        kernel=tuple(kernel),
        strides=tuple(given.get("strides", [1] * axes)),
        dilations=tuple(given.get("dilations", [1] * axes)),
        pads=tuple(given.get("pads", [0] * 2 * axes)),
        auto_pad=given.get("auto_pad", "NOTSET"),
    )
    lengths = (len(window.strides), len(window.dilations), len(window.pads) // 2)
    shape = context.shapes.get(node.input[0])
    if lengths != (axes,) * 3 or (shape is not None and len(shape) != axes + 2):
        return refuse(place, "its attributes do not fit its weight", tensor, bias_params=bias_params)
    bias = len(node.input) > 2 and bool(node.input[2])
    layer = next(cost.layers([Stage(out, inp, window)], shape, bias)) if shape else None
    groups = given.get("group", 1)
    values = values_of(tensor)
    if groups != 1:
        values = f"{'depthwise' if inp == 1 else 'grouped'} convolutions are not factorised"
    if isinstance(values, str):
        return refuse(place, values, tensor, layer, bias_params)
    site = Site(place.label, node.op_type, values, window, shape, bias)
    return Reading(site, math.prod(tensor.dims), bias_params, layer)


def emit(parts: Emission) -> list[gs.Node]:
    """One Conv a stage."""
    nodes = []
    for i, (stage, weight) in enumerate(zip(parts.stages, parts.weights, strict=True)):
        inputs = [parts.values[i], weight]
        if i == len(parts.stages) - 1:
            inputs += parts.rest()
        nodes.append(gs.Node("Conv", attrs=_attributes(stage.window), inputs=inputs, outputs=[parts.values[i + 1]]))
    return nodes


def _attributes(window: Window) -> dict[str, Any]:
    result: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
    }
    if window.auto_pad == "NOTSET":
        return {**result, "pads": list(window.pads)}
    return {**result, "auto_pad": window.auto_pad}


CONV = Op(read, lambda node, weight: weight, emit)
