"""How a node may be computed: as it is, or in forms that its shapes and neighbours allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnx_tucker import forms
from onnx_tucker.forms import DIRECT, Form
from onnx_tucker.graph.context import Context
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.lower.layout import frames_of, is_main
from onnx_tucker.types import Candidate, Stage

RESHAPES = 7
"""The first opset that lowered nodes are written for."""


def untouched(found: Found) -> Candidate:
    """A node as it is."""
    return Candidate(None, None, (found.site.stage,))


def alike(group: Sequence[Found]) -> bool:
    """Whether nodes that share a weight can share it on frames too, where geometry says which taps are stored."""
    return len({(found.site.stage, found.site.size) for found in group}) == 1


def forms_of(context: Context, found: Found, stages: Sequence[Stage]) -> list[Form]:
    """The forms that a chain can have in the place of a node."""
    site, node = found.site, found.place.node
    if node.op_type not in ("Conv", "ConvTranspose") or site.dtype != np.float32 or context.opset < RESHAPES:
        return [DIRECT]
    size = site.size if is_main(found.place) else None  # what bodies say of sizes need not be true
    framed = frames_of(context, node.input[0]) and frames_of(context, node.output[0])
    return [DIRECT, *(form for form in forms.fitting(stages, size) if framed or not form.on_frames)]


def lowerable(context: Context, found: Found) -> bool:
    """Whether a node as it is, factorised or not, can be computed in another form than its own."""
    return found.is_layer and len(forms_of(context, found, [found.site.stage])) > 1


def quick(context: Context, found: Found, candidate: Candidate) -> Candidate:
    """A candidate in the form on frames that should take its chain the least time, by estimate; direct without one."""
    stages, shape = candidate.stages, found.site.input_shape
    framed = [form for form in forms_of(context, found, stages) if form.on_frames]
    form = min(framed, key=lambda form: forms.effort(stages, shape, form), default=DIRECT) if shape else DIRECT
    return replace(candidate, form=str(form))
