"""Conv with a constant weight, any number of spatial axes and groups, and onnxruntime's FusedConv.

Its weight is canonical as it is. The activation of a FusedConv, and the value it adds, stay with the last stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_tucker.graph.constant import Constant
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.nodes import Place, attributes
from onnx_tucker.graph.ops.op import MISFIT, Emission, Op, Reading, Seat, computed, has_bias, refuse, settle
from onnx_tucker.types import Array, Stage, Window


def read(place: Place, context: Context) -> Reading:
    """Reads a Conv or FusedConv node; depthwise ones can only be lowered."""
    weight = weight_of(place, context, _stage)
    if isinstance(weight, Reading):
        return weight
    stage = _stage(place, weight.shape)
    seat = Seat(weight, 1, 0, ("Conv", stage.groups), lambda stage, factor: factor)
    return convolution(place, context, stage, seat, lambda array: array)


def _stage(place: Place, shape: Sequence[int]) -> Stage:
    """The node as the only stage of a chain, by the shape of its weight."""
    given, (out, inp, *kernel) = attributes(place.node), shape
    groups = given.get("group", 1)
    return Stage(out // groups, inp, window_of(given, tuple(kernel)), groups)


def weight_of(place: Place, context: Context, stage_of: Callable[[Place, Sequence[int]], Stage]) -> Constant | Reading:
    """The constant weight of a convolution, of which every group has a share, or a reading that skips the node.

    Args:
        place: the node.
        context: its surroundings.
        stage_of: what it is as a stage, by the shape of its weight.
    """
    weight = context.constant(place, 1)
    if weight is None:
        shape = context.shape(place, 1)
        stage = stage_of(place, shape) if shape is not None and _parts(place, shape) else None
        return computed(place, context, stage, None if stage is None else _input_shape(place, context, stage))
    return weight if _parts(place, weight.shape) else refuse(place, MISFIT, weight)


def _parts(place: Place, shape: Sequence[int]) -> bool:
    """Whether a weight of that shape has a share for each group."""
    groups = attributes(place.node).get("group", 1)
    return len(shape) >= 2 and groups >= 1 and not shape[0] % groups


def _input_shape(place: Place, context: Context, stage: Stage) -> tuple[int, ...] | None:
    """The shape of the input, where it is known and fits."""
    shape = context.shape(place, 0)
    if shape is None or not fits(stage, shape) or min(stage.window.output_size(shape[2:]), default=0) < 0:
        return None  # in the last case a free size was taken for 1, and is not
    return shape


def convolution(
    place: Place, context: Context, stage: Stage, seat: Seat, canonical: Callable[[NDArray[Any]], Array]
) -> Reading:
    """The reading of a convolution of either direction; the arguments are those of `settle`."""
    if not fits(stage, context.shape(place, 0)):
        return refuse(place, MISFIT, seat.weight)
    shape = _input_shape(place, context, stage)
    bias, objection = has_bias(place), depthwise(stage)
    return settle(place, context, stage, shape, seat, canonical, bias=bias, objection=objection)


def window_of(given: Mapping[str, Any], kernel: tuple[int, ...]) -> Window:
    """The window that a convolution's attributes describe."""
    axes = len(kernel)
    return Window(
        kernel=kernel,
        strides=tuple(given.get("strides", [1] * axes)),
        dilations=tuple(given.get("dilations", [1] * axes)),
        pads=tuple(given.get("pads", [0] * 2 * axes)),
        auto_pad=given.get("auto_pad") or "NOTSET",  # onnxruntime takes an empty one for that
    )


def fits(stage: Stage, shape: tuple[int, ...] | None) -> bool:
    """Whether a convolution's attributes, weight and input shape agree with each other."""
    window, axes = stage.window, len(stage.window.kernel)
    if (len(window.strides), len(window.dilations), len(window.pads)) != (axes, axes, 2 * axes):
        return False
    if window.transposed and (len(window.output_padding) != axes or len(window.output_shape) not in (0, axes)):
        return False
    if min((*window.strides, *window.dilations), default=1) < 1:
        return False
    if shape is None:
        return True
    return len(shape) == axes + 2 and shape[1] == stage.groups * stage.inp


def depthwise(stage: Stage) -> str:
    """Why a depthwise convolution is not factorised; empty for others."""
    return "depthwise convolutions have no channels to mix" if stage.groups > 1 and stage.inp == 1 else ""


def emit(parts: Emission) -> list[gs.Node]:
    """One Conv a stage, or a ConvTranspose where the window is transposed; the last is fused if the node is."""
    given, nodes = attributes(parts.node), []
    for i, stage in enumerate(parts.stages):
        op_type = "ConvTranspose" if stage.window.transposed else "Conv"
        attrs = geometry(stage)
        if not parts.is_last(i):
            nodes.append(parts.layer(i, op_type, attrs))
        elif parts.node.op_type == "FusedConv":
            attrs |= {name: given[name] for name in ("activation", "activation_params") if name in given}
            nodes.append(parts.layer(i, "FusedConv", attrs, parts.rest(), parts.node.domain))
        else:
            nodes.append(parts.layer(i, op_type, attrs, parts.rest(), parts.node.domain))
    return nodes


def geometry(stage: Stage) -> dict[str, Any]:
    """A stage's window and groups as attributes."""
    window = stage.window
    result: dict[str, Any] = {
        "kernel_shape": list(window.kernel),
        "strides": list(window.strides),
        "dilations": list(window.dilations),
        "group": stage.groups,
    }
    if window.auto_pad != "NOTSET":
        result["auto_pad"] = window.auto_pad
    elif not window.output_shape:
        result["pads"] = list(window.pads)
    if any(window.output_padding):
        result["output_padding"] = list(window.output_padding)
    if window.output_shape:
        result["output_shape"] = list(window.output_shape)
    return result


CONV = Op("", read, emit)
FUSED_CONV = Op("com.microsoft", read, emit)
