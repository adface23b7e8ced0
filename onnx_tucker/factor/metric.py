"""How much a layer's outputs change with its weight: the second moment C of the patches that it sees.

Formed as a matrix, or kept as the rows themselves where those are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from onnx_tucker.factor.axes import but, derivative, product
from onnx_tucker.types import Array

FLOOR = 1e-9
"""What rounding is, relative to what it is of.

In roots, eigenvalues are raised to this share of the largest one; before an equation is solved, this share of the mean
diagonal is added to it; and a basis that is this far from orthonormal counts as one that is.
"""


class Product(NamedTuple):
    """A linear map of patches, as factors in Einstein's notation.

    Attributes:
        terms: the axes of each factor, lower-case letters.
        factors: of those shapes.
        result: the axes of what a patch becomes; those that are axes of the patch too are left as they are.
        patch: the axes of a patch, with their sizes.
    """

    terms: Sequence[str]
    factors: Sequence[Array]
    result: str
    patch: Mapping[str, int]

    @property
    def orthonormal(self) -> bool:
        """Whether it is one factor, and lengths and angles within what it spans stay as they are."""
        if len(self.factors) != 1:
            return False
        new = [i for i, c in enumerate(self.terms[0]) if c not in self.patch]
        rows = np.moveaxis(self.factors[0], new, range(len(new)))
        rows = rows.reshape(int(np.prod(rows.shape[: len(new)])), -1)
        return bool(np.allclose(rows @ rows.T, np.eye(len(rows)), rtol=0.0, atol=FLOOR))


class Metric(Protocol):
    """A second moment of patches, (in * volume, in * volume), positive definite."""

    def times(self, weights: Array) -> Array:
        """`weights @ C` for any number of rows of weights, (rows, in * volume)."""
        ...

    def roots(self, inp: int) -> tuple[Root, Root]:
        """Symmetric square root of the second moment of the input channels, and its inverse."""
        ...

    def solve(self, product: Product, right: Array) -> Array:
        """The solution of `moment @ x = right` for the second moment of what patches become."""
        ...

    def pull(self, terms: Sequence[str], factors: Sequence[Array], number: int, whole: str) -> Array:
        """Half the derivative of tr W C W^T with respect to one of the factors of W.

        Args:
            terms: the axes of each factor.
            factors: of those shapes.
            number: which of them.
            whole: the axes of W, the output's first.
        """
        ...


@dataclass(frozen=True, eq=False)
class Root:
    """A symmetric matrix: scale * I + vectors @ diag(values) @ vectors^T.

    Attributes:
        vectors: orthonormal columns, (width, any number).
        values: one for each of them.
        scale: of the identity.
    """

    vectors: Array
    values: Array
    scale: float = 0.0

    def times(self, array: Array, axis: int) -> Array:
        """Multiplies an array by it along an axis."""
        moved = np.moveaxis(array, axis, -1)
        rows = np.ascontiguousarray(moved).reshape(-1, moved.shape[-1])  # else there is a product for each outer index
        made = rows
        for matrix in self._matrices:
            made = made @ matrix
        if self.scale:
            made += self.scale * rows
        return np.asarray(np.moveaxis(made.reshape(moved.shape), -1, axis))

    @cached_property
    def _matrices(self) -> tuple[Array, ...]:
        """What is multiplied by, one after the other: itself without the identity, or of few vectors two thin ones."""
        scaled = self.vectors * self.values
        return (scaled, self.vectors.T) if len(self.vectors) > len(self.values) else (scaled @ self.vectors.T,)


@dataclass(frozen=True, eq=False)
class Dense:
    """The matrix itself."""

    moment: Array

    def times(self, weights: Array) -> Array:
        """See `Metric`."""
        return np.asarray(weights @ self.moment)

    def channels(self, inp: int) -> Array:
        """The second moment of the `inp` input channels, mean over the kernel elements."""
        moment = self.moment.reshape(inp, -1, inp, len(self.moment) // inp)
        return np.asarray(np.einsum("ikjk->ij", moment) / moment.shape[1])

    def roots(self, inp: int) -> tuple[Root, Root]:
        """See `Metric`."""
        return roots(self.channels(inp))

    def through(self, product: Product) -> Array:
        """The second moment of what patches become."""
        terms, factors, result, patch = product
        letters, again = "".join(patch), [term.upper() for term in terms]
        equation = f"{','.join((*terms, *again))},{letters}{letters.upper()}->{result}{result.upper()}"
        shaped = self.moment.reshape(*patch.values(), *patch.values())
        return _square(np.einsum(equation, *factors, *factors, shaped, optimize=True))

    def solve(self, product: Product, right: Array) -> Array:
        """See `Metric`."""
        return solved(damped(self.through(product)), right)

    def pull(self, terms: Sequence[str], factors: Sequence[Array], number: int, whole: str) -> Array:
        """See `Metric`."""
        weight = product(terms, factors, whole)
        outputs = self.times(weight.reshape(len(weight), -1)).reshape(weight.shape)
        return derivative(terms, factors, number, whole, outputs)


@dataclass(frozen=True, eq=False)
class Sampled:
    """A share of the mean over rows, and a multiple of the identity: share * rows^T rows / count + ridge.

    Attributes:
        rows: patches, (count, in * volume).
        ridge: the multiple.
        share: what the mean counts.
        central: whether the mean of the rows is taken off them.
    """

    rows: Array
    ridge: float
    share: float = 1.0
    central: bool = False
    _turned: dict[int, Array] = field(default_factory=dict, init=False, repr=False)

    def times(self, weights: Array) -> Array:
        """See `Metric`."""
        seen = centred(self.rows @ weights.T, self.central)
        return np.asarray(seen.T @ self.rows * (self.share / len(self.rows)) + self.ridge * weights)

    def channels(self, inp: int) -> Array:
        """See `Dense`."""
        count, volume = len(self.rows), self.rows.shape[1] // inp
        rows = self.rows.reshape(count, inp, volume).swapaxes(0, 1).reshape(inp, -1)
        moment = rows @ rows.T / count
        if self.central:
            mean = self.rows.mean(axis=0).reshape(inp, volume)
            moment -= mean @ mean.T
        return raised(moment * (self.share / volume), self.ridge)

    def roots(self, inp: int) -> tuple[Root, Root]:
        """See `Metric`; from the singular values of the rows, if they are channels and fewer than those."""
        count, width = self.rows.shape
        if width > inp or count >= width:
            return roots(self.channels(inp))
        _, values, vectors = np.linalg.svd(centred(self.rows, self.central), full_matrices=False)
        squares = self.ridge + np.square(values) * (self.share / count)
        least = FLOOR * (squares.max() or 1.0)
        scale, kept = np.sqrt(max(self.ridge, least)), np.sqrt(np.maximum(squares, least))
        return Root(vectors.T, kept - scale, scale), Root(vectors.T, 1 / kept - 1 / scale, 1 / scale)

    def through(self, product: Product) -> Array:
        """See `Dense`."""
        terms, factors, result, patch = product
        seen = self._seen(product)
        # The identity: axes that are left alone meet themselves only, the others are summed over.
        alone = [c for c in result if c in patch]
        again = ["".join(c.upper() if c in result else c for c in term) for term in terms]
        equation = f"{','.join((*terms, *again, *(c + c.upper() for c in alone)))}->{result}{result.upper()}"
        scaled, *others = factors
        scaled = scaled * self.ridge
        same = np.einsum(equation, scaled, *others, *factors, *(np.eye(patch[c]) for c in alone), optimize=True)
        moment = np.asarray(seen.T @ seen)
        moment += _square(same)
        return moment

    def solve(self, product: Product, right: Array) -> Array:
        """See `Metric`; in the space of the rows (Woodbury), if they are fewer and the identity stays one."""
        if len(self.rows) >= len(right) or not product.orthonormal:
            return solved(damped(self.through(product)), right)
        seen = self._seen(product)
        inner = raised(seen @ seen.T, self.ridge)
        return np.asarray((right - seen.T @ solved(inner, seen @ right)) / self.ridge)

    def pull(self, terms: Sequence[str], factors: Sequence[Array], number: int, whole: str) -> Array:
        """See `Metric`; the rows pass through the factors, as W has more elements than they give outputs."""
        patch, others = whole[1:], but(factors, number)
        named = zip(terms, factors, strict=True)
        sizes = {c: size for term, factor in named for c, size in zip(term, factor.shape, strict=True)}
        axes, rows = self._channels_last({c: sizes[c] for c in patch})
        seen = centred(product([*terms, axes], [*factors, rows], f"n{whole[0]}"), self.central)
        back = [axes, f"n{whole[0]}", *but(terms, number)]  # einsum takes three times as long the other way round
        found = product(back, [rows, seen * (self.share / len(rows)), *others], terms[number])
        # The identity: axes of W meet themselves, those between factors have names of their own in W.
        inner = ["".join(c if c in whole else c.upper() for c in term) for term in terms]
        same = product([*inner, *but(terms, number)], [*factors, *others], terms[number])
        return found + self.ridge * same

    def _seen(self, product: Product) -> Array:
        """What the rows become, (count, values), scaled so that the sum of their squares is a share of the mean."""
        terms, factors, result, patch = product
        axes, rows = self._channels_last(patch)
        seen = np.einsum(f"{','.join(terms)},{axes}->n{result}", *factors, rows, optimize=True)
        return np.asarray(centred(seen.reshape(len(rows), -1), self.central) * np.sqrt(self.share / len(rows)))

    def _channels_last(self, patch: Mapping[str, int]) -> tuple[str, Array]:
        """The rows as (count, *kernel, in), and the axes of that: what is multiplied first needs no copy then.

        Args:
            patch: the axes of a row, its channels first, with their sizes.
        """
        inp, *kernel = patch.values()
        if inp not in self._turned:
            turned = self.rows.reshape(len(self.rows), inp, -1).swapaxes(1, 2)
            self._turned[inp] = np.ascontiguousarray(turned)
        first, *others = patch
        return "".join(("n", *others, first)), self._turned[inp].reshape(-1, *kernel, inp)


def centred(rows: Array, central: bool) -> Array:
    """Rows, less their mean if that is asked for."""
    return rows - rows.mean(axis=0) if central else rows


def _square(moment: Array) -> Array:
    """A moment whose second half of axes are the first half again, as a matrix."""
    width = int(np.prod(moment.shape[: moment.ndim // 2]))
    return np.asarray(moment.reshape(width, width))


def roots(moment: Array) -> tuple[Root, Root]:
    """Symmetric square root of a second moment, and its inverse."""
    values, vectors = np.linalg.eigh(moment)
    values = np.sqrt(np.maximum(values, FLOOR * (values.max() or 1.0)))
    return Root(vectors, values), Root(vectors, 1 / values)


def raised(moment: Array, by: float) -> Array:
    """A copy of a matrix with something added to its diagonal."""
    copy = np.array(moment)
    copy.flat[:: len(copy) + 1] += by
    return copy


def damped(moment: Array) -> Array:
    """A moment that may be singular, made regular."""
    return raised(moment, FLOOR * (np.trace(moment) / len(moment) or 1.0))


def solved(moment: Array, right: Array) -> Array:
    """The solution of `moment @ x = right` for a regular moment.

    By numpy, though scipy's Cholesky has half the work: the two come with a BLAS each, whose idle threads take the
    cores from one another, and that doubled the time of whole runs.
    """
    return np.asarray(np.linalg.solve(moment, right))
