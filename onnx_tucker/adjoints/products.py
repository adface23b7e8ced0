"""Through products of matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tucker.adjoints.call import Call, Value, reduced, single


def gemm(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a product with scales and a bias."""
    given, change = call.attributes, single(changes)
    alpha, beta = (np.float32(given.get(name, 1.0)) for name in ("alpha", "beta"))
    if index == 2:
        return reduced(beta * change, call.given(2).shape)
    other = call.given(1 - index)
    if given.get("transB" if index == 0 else "transA"):
        other = other.T
    found = np.asarray(alpha * (change @ other.T if index == 0 else other.T @ change))
    return found.T if given.get("transA" if index == 0 else "transB") else found


def product(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a product of matrices, or of stacks of them."""
    left, right, change = call.given(0), call.given(1), single(changes)
    if min(left.ndim, right.ndim) < 2:
        raise ValueError("a product with a vector")
    if index == 0:
        return reduced(change @ right.swapaxes(-1, -2), left.shape)
    return reduced(left.swapaxes(-1, -2) @ change, right.shape)


def einstein(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through a sum in Einstein's notation, where derivatives take the place of a factor."""
    equation = call.attributes["equation"].replace(" ", "")
    all_, arrow, result = equation.partition("->")
    terms = all_.split(",")
    ours = terms.pop(index)
    if not arrow or "." in equation or len(set(ours)) < len(ours) or not set(ours) <= {*result, *"".join(terms)}:
        raise ValueError("axes without names, of a diagonal, or of sums of one factor")
    others = [call.given(i) for i in range(len(call.inputs)) if i != index]
    found = np.einsum(f"{','.join((result, *terms))}->{ours}", single(changes), *others, optimize=True)
    if found.shape != call.given(index).shape:
        raise ValueError("axes that are repeated")
    return np.asarray(found)
