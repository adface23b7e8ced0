"""Separable kernels: one layer along the later kernel axes, then one along the first.

    W[o, i, t, h, w] ~ sum_r A[r, i, h, w] B[o, r, t]     1 x kh x kw (in -> r), then kt x 1 x 1 (r -> out)

The best of its rank, as a truncated singular value decomposition of the unfolding (in * later axes, first axis * out):
scheme 2 of Jaderberg, Vedaldi and Zisserman, "Speeding up Convolutional Neural Networks with Low Rank Expansions",
BMVC 2014, which in three dimensions is the (2+1)D convolution of Tran et al., CVPR 2018.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnx_tucker.factor.method import Method
from onnx_tucker.factor.unfold import across, leading_basis
from onnx_tucker.types import Array, Ranks, Stage, Window


def stages(stage: Stage, ranks: Ranks) -> tuple[Stage, ...]:
    """(in -> r along the later axes), (r -> out along the first)."""
    later, first = _alone(stage.window, range(1, len(stage.window.kernel))), _alone(stage.window, range(1))
    return replace(stage, out=ranks[0], window=later), replace(stage, inp=ranks[0], window=first)


def factors(weight: Array, ranks: Ranks) -> tuple[Array, ...]:
    """The leading basis of the unfolding, and the weight projected on it."""
    out, inp, first, *later = weight.shape
    matrix = across(weight)
    basis = leading_basis(matrix, ranks[0])
    projected = (basis.T @ matrix).reshape(ranks[0], first, out)
    ones = (1,) * len(later)
    return (
        np.ascontiguousarray(basis.T).reshape(ranks[0], inp, 1, *later),
        np.ascontiguousarray(projected.transpose(2, 0, 1)).reshape(out, ranks[0], first, *ones),
    )


def _alone(window: Window, axes: range) -> Window:
    """The window on some axes, and one position at a time on the others."""
    count = len(window.kernel)

    def kept(values: tuple[int, ...], other: int) -> tuple[int, ...]:
        return tuple(value if i % count in axes else other for i, value in enumerate(values))

    return replace(
        window,
        kernel=kept(window.kernel, 1),
        strides=kept(window.strides, 1),
        dilations=kept(window.dilations, 1),
        pads=kept(window.pads, 0),
        output_padding=kept(window.output_padding, 0),
    )


SEPARABLE = Method(
    name="separable",
    modes=("across",),
    on_matrix=False,
    on_kernel=True,
    stages=stages,
    factors=factors,
    terms=("ril", "ort"),
    letters="r",
    axes=2,
)
