"""Singular values of a weight as its outputs feel them: errors at a rank are then errors of the outputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_tucker.factor.fit import Goal
from onnx_tucker.factor.unfold import UNFOLDINGS, Spectra, singular_values
from onnx_tucker.types import Array


class Weighted(Spectra):
    """The spectra of a weight on inputs of known second moments, whose outputs count as is known.

    Along the output mode they are exact: what is lost there is the smallest eigenvalues of the outputs' second moment.
    Along the others they are those of the weight with whitened input channels, which leaves out what neighbouring
    kernel elements see in common.

    Args:
        weight: (groups * out, in, *kernel).
        goals: of each group; what they want is not asked for.
    """

    def __init__(self, weight: Array, goals: Sequence[Goal]) -> None:
        parts = np.split(weight.astype(np.float64), len(goals))
        felt = np.concatenate([goal.feel(part) for goal, part in zip(goals, parts, strict=True)])
        super().__init__(felt, len(goals))
        self._metrics = [goal.metric for goal in goals]

    def _values(self, key: str, group: int) -> Array:
        part, metric = self.parts[group], self._metrics[group]
        if key == "out":
            matrix = part.reshape(len(part), -1)
            inner = np.asarray(np.linalg.qr(matrix, mode="r")) if len(matrix) > matrix.shape[1] else matrix
            found = np.linalg.eigvalsh(metric.times(inner) @ inner.T)[::-1]
            return np.pad(np.sqrt(np.maximum(found, 0.0)), (0, len(matrix) - len(inner)))
        half, _ = metric.roots(part.shape[1])
        return singular_values(UNFOLDINGS[key](half.times(part, 1)))
