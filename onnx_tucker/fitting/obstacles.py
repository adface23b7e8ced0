"""Why the rows of a node cannot be read or its weight not be fitted, and whether what it adds may change."""

from __future__ import annotations

import math

import numpy as np

from onnx_tucker.graph.find import Found
from onnx_tucker.graph.lower.layout import is_main
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import holders, shared
from onnx_tucker.types import Array


def movable(job: Job, found: Found) -> bool:
    """Whether what a node adds may change: a constant, of a node that alone has its weight."""
    return found.reading.added is not None and not shared(job, found)


def own_bias(found: Found) -> Array | None:
    """What a node without obstacles adds to its output, (groups * out,), in float64; None where it adds nothing."""
    added, stage = found.reading.added, found.site.stage
    if added is None:
        return None
    return np.broadcast_to(added.constant.read().astype(np.float64).ravel(), stage.groups * stage.out)


def obstacle(job: Job, found: Found) -> str:
    """Why a node cannot be fitted to data by itself, be it its weight or what it adds; empty where it can be."""
    return "its weight is that of several nodes" if shared(job, found) else _unreadable(job, found)


def unread(job: Job, found: Found) -> str:
    """Why nothing is known of the rows of a node, and of those with the same weight; empty where something can be."""
    return next(filter(None, (_unreadable(job, one) for one in holders(job, found))), "")


def _unreadable(job: Job, found: Found) -> str:
    """Why rows of a node cannot be read; empty where they can be."""
    site, window = found.site, found.site.stage.window
    if not is_main(found.place):
        return "it is in a body, or fused"
    taken = job.context.constant(found.place, found.seat.data)
    if taken is not None and job.context.constants.overridable(taken):
        return "its input is one that callers may give, and the data does not"
    added = found.reading.added
    if site.bias and (added is None or math.prod(added.constant.shape[:-1]) != 1):
        return "what it adds is no constant vector"
    if added is not None and job.context.constants.overridable(added.constant):
        return "what it adds is a graph input that callers may override"
    if site.scalings:
        return "it scales its output"
    if window.transposed and (window.auto_pad != "NOTSET" or window.output_shape):
        return "its pads depend on the size of the output"
    if site.stage.groups > 1 and not window.kernel:
        return "its weight is a batch of matrices"
    return ""
