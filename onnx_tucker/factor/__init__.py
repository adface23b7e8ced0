"""Pure mathematics: a weight `W[out, in, *kernel]` becomes a chain of smaller weights.

A new method is one file, one entry in `METHODS`, and one test file.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tucker.factor.method import Method
from onnx_tucker.factor.svd import SVD
from onnx_tucker.factor.tucker1 import TUCKER1_IN, TUCKER1_OUT
from onnx_tucker.factor.tucker2 import TUCKER2
from onnx_tucker.factor.unfold import Spectra
from onnx_tucker.types import Array, Chain

METHODS: dict[str, Method] = {
    "tucker2": TUCKER2,
    "tucker1_in": TUCKER1_IN,
    "tucker1_out": TUCKER1_OUT,
    "svd": SVD,
}

__all__ = ["METHODS", "Method", "Spectra", "reconstruct", "weight_error"]


def reconstruct(chain: Chain) -> Array:
    """The weight (groups * out, in, *kernel) of the one layer that a chain amounts to.

    At most one stage may have more than one kernel element, and all have the same number of groups.
    """
    by_group = zip(*(np.split(factor, chain.stages[0].groups) for factor in chain.factors), strict=True)
    return np.concatenate([_product(factors) for factors in by_group])


def _product(factors: Sequence[Array]) -> Array:
    total, *others = (factor.astype(np.float64) for factor in factors)
    for factor in others:
        kernel = factor.shape[2:] if factor[0, 0].size > 1 else total.shape[2:]
        left, right = factor.reshape(*factor.shape[:2], -1), total.reshape(*total.shape[:2], -1)
        # One of the two kernel axes has length 1, so this product only broadcasts it.
        total = np.einsum("obk,bil->oikl", left, right, optimize=True).reshape(len(left), right.shape[1], *kernel)
    return total


def weight_error(weight: Array, chain: Chain) -> float:
    """Relative Frobenius error of a chain; 0 for a weight that is zero and stays so."""
    exact = weight.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    exact -= reconstruct(chain)
    lost = float(np.linalg.norm(exact))
    return lost / norm if norm else lost
