"""Singular values of a weight as its outputs feel them: errors at a rank are then errors of the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tucker.factor.metric import Metric
from onnx_tucker.factor.unfold import UNFOLDINGS, Spectra, singular_values
from onnx_tucker.types import Array


class Weighted(Spectra):
    """The spectra of a weight on inputs of known second moments.

    Along the output mode they are exact: what is lost there is the smallest eigenvalues of the outputs' second moment.
    Along the others they are those of the weight with whitened input channels, which leaves out what neighbouring
    kernel elements see in common.

    Args:
        weight: (groups * out, in, *kernel).
        metrics: the second moment of each group's patches.
    """

    def __init__(self, weight: Array, metrics: Sequence[Metric]) -> None:
        super().__init__(weight.astype(np.float64), len(metrics))
        self._metrics = metrics

    def _values(self, key: str, group: int) -> Array:
        part, metric = self.parts[group], self._metrics[group]
        if key == "out":
            matrix = part.reshape(len(part), -1)
            inner = np.asarray(np.linalg.qr(matrix, mode="r")) if len(matrix) > matrix.shape[1] else matrix
            found = np.linalg.eigvalsh(metric.times(inner) @ inner.T)[::-1]
            return np.pad(np.sqrt(np.maximum(found, 0.0)), (0, len(matrix) - len(inner)))
        half, _ = metric.roots(part.shape[1])
        return singular_values(UNFOLDINGS[key](half.times(part, 1)))
