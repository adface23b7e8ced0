"""Pure mathematics: a weight `W[out, in, *kernel]` becomes a chain of smaller weights.

A new method is one file, one entry in `METHODS`, and one test file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tucker.factor.cp import CP
from onnx_tucker.factor.method import Method
from onnx_tucker.factor.separable import SEPARABLE
from onnx_tucker.factor.svd import SVD
from onnx_tucker.factor.tucker1 import TUCKER1_IN, TUCKER1_OUT
from onnx_tucker.factor.tucker2 import TUCKER2
from onnx_tucker.factor.tucker_kernel import TUCKER_KERNEL
from onnx_tucker.factor.unfold import Spectra
from onnx_tucker.types import Array, Chain

METHODS: dict[str, Method] = {
    "tucker2": TUCKER2,
    "tucker1_in": TUCKER1_IN,
    "tucker1_out": TUCKER1_OUT,
    "svd": SVD,
    "separable": SEPARABLE,
    "tucker_kernel": TUCKER_KERNEL,
    "cp": CP,
}

__all__ = ["METHODS", "Method", "Spectra", "reconstruct", "weight_error"]


def reconstruct(chain: Chain) -> Array:
    """The weight (groups * out, in, *kernel) of the one layer that a chain amounts to.

    Every kernel axis belongs to one stage, and the groups of all stages are multiples of those of the first.
    """
    groups = chain.stages[0].groups
    nested = [stage.groups // groups for stage in chain.stages]
    by_group = zip(*(np.split(factor, groups) for factor in chain.factors), strict=True)
    return np.concatenate([_product([_dense(f, n) for f, n in zip(fs, nested, strict=True)]) for fs in by_group])


def _dense(factor: Array, groups: int) -> Array:
    """The weight (groups * out, groups * in, *kernel) of a layer without groups that does the same."""
    if groups == 1:
        return factor.astype(np.float64)
    rows, inp = factor.shape[:2]
    out = rows // groups
    dense = np.zeros((rows, groups * inp, *factor.shape[2:]))
    for g in range(groups):
        dense[g * out : (g + 1) * out, g * inp : (g + 1) * inp] = factor[g * out : (g + 1) * out]
    return dense


def _product(factors: Sequence[Array]) -> Array:
    total, *others = factors
    for factor in others:
        # One of the two has length 1 along every kernel axis, so that a product for each kernel element broadcasts.
        product = np.matmul(*(np.moveaxis(matrix, (0, 1), (-2, -1)) for matrix in (factor, total)))
        total = np.moveaxis(product, (-2, -1), (0, 1))
    return total


def weight_error(weight: Array, chain: Chain) -> float:
    """Relative Frobenius error of a chain; 0 for a weight that is zero and stays so."""
    exact = weight.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    exact -= reconstruct(chain)
    lost = float(np.linalg.norm(exact))
    return lost / norm if norm else lost
