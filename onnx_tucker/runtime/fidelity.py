"""How close the outputs of two models are on the same inputs, summed up batch by batch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.types import Closeness

CHUNK = 2**16
"""Values that are compared at the same time: few enough to stay in the processor's cache."""


@dataclass
class _Sums:
    difference: float = 0.0
    norm_a: float = 0.0
    norm_b: float = 0.0
    product: float = 0.0
    max_abs: float = 0.0
    agree: int = 0
    positions: int = 0
    values: int = 0
    comparable: bool = True
    same: bool = True
    finite: bool = True
    norms: float = 0.0
    squares: float = 0.0

    def add(self, a: NDArray[Any], b: NDArray[Any], axis: int | None, samples: int) -> None:
        norms = _norms(a, samples)
        self.norms += float(norms.sum())
        with np.errstate(over="ignore"):
            self.squares += float(norms @ norms)
        if axis is not None and 1 < a.ndim > axis and a.shape[axis] > 1:
            same = a.argmax(axis=axis) == b.argmax(axis=axis)
            self.agree += int(same.sum())
            self.positions += same.size
        self.add_values(a, b)

    def add_values(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        flat_a, flat_b = a.ravel(), b.ravel()
        for start in range(0, a.size, CHUNK):
            self._add(*(flat[start : start + CHUNK].astype(np.float64) for flat in (flat_a, flat_b)))

    def _add(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        usable = np.isfinite(x)
        self.finite &= bool(np.isfinite(y[usable]).all())
        usable &= np.isfinite(y)
        x, y = x[usable], y[usable]
        self.values += x.size
        with np.errstate(over="ignore"):  # squares of the largest doubles are infinite
            difference = x - y
            self.difference += float(difference @ difference)
            self.norm_a += float(x @ x)
            self.norm_b += float(y @ y)
            self.product += float(x @ y)
        self.max_abs = max(self.max_abs, float(np.abs(difference).max(initial=0.0)))

    def closeness(self, name: str) -> Closeness:
        if not self.comparable:
            return Closeness(name, 0.0 if self.same else None, None, None, None, None, self.finite)
        if not self.values:
            return Closeness(name, None, None, None, None, None, self.finite)
        relative: float | None = 0.0
        if self.norm_a or self.difference:
            known = self.norm_a > 0 and math.isfinite(self.difference + self.norm_a)
            relative = math.sqrt(self.difference / self.norm_a) if known else None
        lengths = math.sqrt(self.norm_a) * math.sqrt(self.norm_b)
        return Closeness(
            name=name,
            relative_l2=relative,
            max_abs=self.max_abs,
            cosine=min(1.0, self.product / lengths) if 0 < lengths < math.inf else None,
            snr_db=-20 * math.log10(relative) if relative else None,
            argmax_agreement=self.agree / self.positions if self.positions else None,
            finite=self.finite,
            effective_samples=self.norms * (self.norms / self.squares) if 0 < self.squares < math.inf else None,
        )


@dataclass
class Comparison:
    """Sums over feeds, one for each output.

    Sequences and maps count as the numbers in them; what has none, as text, is the same or cannot be compared.

    Attributes:
        axes: along which axis of outputs classes lie; where that is None, only of vectors, along the second.
    """

    axes: Mapping[str, int | None] = field(default_factory=dict)
    sums: dict[str, _Sums] = field(default_factory=dict)

    def add(self, names: Sequence[str], a: Sequence[Any], b: Sequence[Any], samples: int = 1) -> None:
        """Takes in the outputs for one feed, which holds so many samples."""
        for name, x, y in zip(names, a, b, strict=True):
            sums = self.sums.setdefault(name, _Sums())
            p, q = numbers(x), numbers(y)
            if p is not None and q is not None and p.shape == q.shape:
                axis = self.axes.get(name)
                sums.add(p, q, 1 if axis is None and p.ndim == 2 else axis, samples)
            else:
                sums.comparable = False
                sums.same &= p is None and q is None and alike(x, y)

    def results(self) -> list[Closeness]:
        """The outputs, in order; those that cannot be compared have no numbers."""
        return [sums.closeness(name) for name, sums in self.sums.items()]


def _norms(a: NDArray[Any], samples: int) -> NDArray[np.float64]:
    """The squared norm of each sample, or of all together where they are not along the first axis; 0 if not finite."""
    rows = a.reshape(samples if a.ndim and len(a) == samples else 1, -1)
    with np.errstate(all="ignore"):
        norms = np.einsum("ij,ij->i", rows, rows, dtype=np.float64, casting="unsafe")
    return np.where(np.isfinite(norms), norms, 0.0)


def numbers(value: Any) -> NDArray[Any] | None:
    """The numbers in a value of onnxruntime: an array, or a sequence or a map of such, one after another; or None."""
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        parts = [numbers(one) for one in value]
        known = [part.ravel() for part in parts if part is not None]
        return np.concatenate([np.empty(0), *known]) if len(known) == len(parts) else None
    array = np.asarray(value)
    return array if array.dtype.kind in "fiub" else None


def alike(a: Any, b: Any) -> bool:
    """Whether two values of onnxruntime are the same, arrays, sequences or maps."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    return type(a) is type(b) and bool(np.array_equal(a, b))


def relative_l2(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Relative L2 error of `b` over the finite values of `a`; None where it is not defined, as for other shapes."""
    if a.shape != np.shape(b):
        return None
    sums = _Sums()
    sums.add_values(a, b)
    return sums.closeness("").relative_l2


def called(outputs: Iterable[Closeness]) -> Iterator[tuple[str, Closeness]]:
    """Outputs and their parts, with what they are called in a sentence."""
    for output in outputs:
        yield f"output {output.name}", output
        yield from ((f"part {part.name} of output {output.name}", part) for part in output.others)


def mean_error(outputs: Sequence[Closeness]) -> float:
    """The mean of the relative errors of outputs that can be compared, or of their parts where they have some.

    Infinite where there are none, where one of those is not known, or where an output is not finite as it should be.
    """
    errors = _errors(outputs)
    return sum(errors) / len(errors) if errors else math.inf


def largest_error(outputs: Sequence[Closeness]) -> float:
    """The largest of the errors that `mean_error` is the mean of."""
    return max(_errors(outputs), default=math.inf)


def _errors(outputs: Sequence[Closeness]) -> list[float]:
    each = {part.name: part for output in outputs for part in output.parts or (output,)}
    compared = [o for o in each.values() if o.max_abs is not None or not o.finite]
    return [math.inf if o.relative_l2 is None or not o.finite else o.relative_l2 for o in compared]
