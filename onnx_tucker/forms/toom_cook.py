"""Short convolutions with fewer multiplications: the algorithms of Toom and Cook, known as Winograd's F(m, r).

`m` outputs of a correlation with `r` taps, y[i] = sum_k g[k] d[i + k], come from n = m + r - 1 products instead of
m * r:

    y = A^T ((G g) * (B^T d))

The transposed algorithm is that of Winograd, "Arithmetic Complexity of Computations", 1980, chapter IV; its use for
layers is Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, equation (5). A polynomial
through n - 1 points and infinity stands behind every row.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from onnx_tucker.types import Array

POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2), Fraction(1, 2), Fraction(-1, 2))
"""Where the polynomials are evaluated; the first of them lose least to rounding."""
UNIT = 1
"""Index of the point 1: every output takes that product once, so that a bias can be added there."""


class Algorithm(NamedTuple):
    """The three transforms of F(m, r)."""

    output: Array
    """A^T, (m, n)."""
    kernel: Array
    """G, (n, r)."""
    input: Array
    """B^T, (n, n)."""


def algorithm(outputs: int, taps: int) -> Algorithm:
    """F(outputs, taps), exact but for the last rounding to float64.

    Raises:
        ValueError: it would need more points than there are.
    """
    products = outputs + taps - 1
    if min(outputs, taps) < 2 or products - 1 > len(POINTS):
        raise ValueError(f"F({outputs}, {taps}) is not known")
    points = POINTS[: products - 1]
    output, kernel, data = (np.zeros(s) for s in ((outputs, products), (products, taps), (products, products)))
    for j, point in enumerate(points):
        others = [p for p in points if p != point]
        scale = math.prod(point - other for other in others)
        output[:, j] = [float(point**i) for i in range(outputs)]
        kernel[j] = [float(point**i / Fraction(scale)) for i in range(taps)]
        data[j, : products - 1] = _from_roots(others)
    output[-1, -1] = kernel[-1, -1] = 1
    data[-1] = _from_roots(points)
    return Algorithm(output, *_balanced(kernel, data))


def _from_roots(roots: list[Fraction] | tuple[Fraction, ...]) -> list[float]:
    """Coefficients of the product of (x - root), constant term first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *coefficients]
        coefficients = [a - root * b for a, b in zip(shifted, [*coefficients, Fraction(0)], strict=True)]
    return [float(c) for c in coefficients]


def _balanced(kernel: Array, data: Array) -> tuple[Array, Array]:
    """Rows of like size on both sides of each product, by powers of two, which lose nothing to rounding."""
    sizes = np.abs(data).max(1) / np.abs(kernel).max(1)
    scale = 2.0 ** np.rint(np.log2(sizes) / 2)[:, None]
    return kernel * scale, data / scale
