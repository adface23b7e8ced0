"""What labels say of a model's outputs, as a loss: of classes by cross-entropy, of numbers by squared error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from onnx_tucker.errors import DataError
from onnx_tucker.graph.ends import Maker


@dataclass(frozen=True)
class Criterion:
    """A loss on labels.

    Attributes:
        output: name of the output that they are of, or of the value that this is made from.
        loss: of that value and the labels of the same samples.
    """

    output: str
    loss: Callable[[Tensor, Tensor], Tensor]


def criterion(
    told: Sequence[NDArray[Any]], outputs: Mapping[str, NDArray[Any]], makers: Mapping[str, Maker]
) -> Criterion:
    """The loss that fits labels and the first of the outputs that they can be of.

    Integers are classes: of an output with an axis more, which is the one that it compares along, behind the batch or
    the last, as they are or one of them 1 and the others 0; or each of two classes, of an output with as many values.
    Fractions are the values that the output should have.

    Args:
        told: labels in batches.
        outputs: of the samples of the first batch, by name.
        makers: what the outputs come from.

    Raises:
        DataError: they fit no output.
    """
    labels, everything = told[0], np.concatenate(told)
    if labels.dtype.kind not in "biuf" or not np.isfinite(everything).all():
        raise DataError(f"The labels ({labels.dtype}) are not all numbers.")
    least, most = everything.min(), everything.max()
    for name, output in outputs.items():
        maker, alike = makers.get(name, Maker()), labels.size == output.size and labels.shape[:1] == output.shape[:1]
        if labels.dtype.kind == "f":
            if alike:
                return Criterion(name, _of_values(float(np.var(everything, dtype=np.float64)) or 1.0))
            continue
        axis = _class_axis(labels.shape, output.shape, maker.axis)
        seen = maker.scores or name
        if axis is not None and least >= 0 and most < output.shape[axis]:
            return Criterion(seen, _of_classes(axis, maker))
        if alike and least >= 0 and most <= 1:
            one_hot = labels.ndim > 1 and labels.shape == output.shape and bool((everything.sum(axis=1) == 1).all())
            if one_hot and labels.shape[1] > 1:
                return Criterion(seen, _of_one_hot(maker))
            return Criterion(seen, _of_two(maker))
    shapes = ", ".join(f"{name} {list(output.shape)}" for name, output in outputs.items())
    raise DataError(
        f"The labels, {labels.dtype} of shape {list(everything.shape)} from {least:g} to {most:g}, are neither classes "
        f"nor values of an output ({shapes or 'there is none of numbers with fractions'})."
    )


def _class_axis(labels: Sequence[int], output: Sequence[int], compared: int | None) -> int | None:
    """The axis of an output along which the classes are."""
    for axis in (1, len(output) - 1) if compared is None else (compared % max(len(output), 1),):
        if len(output) > axis and output[axis] > 1 and [*output[:axis], *output[axis + 1 :]] == [*labels]:
            return axis
    return None


def _of_values(scale: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda made, wanted: functional.mse_loss(made, wanted.reshape(made.shape)) / scale


def _of_one_hot(maker: Maker) -> Callable[[Tensor, Tensor], Tensor]:
    if maker.operator == "Sigmoid":
        return _of_two(maker)
    classes = _of_classes(1, maker)
    return lambda made, wanted: classes(made, wanted.argmax(dim=1))


def _of_classes(axis: int, maker: Maker) -> Callable[[Tensor, Tensor], Tensor]:
    two = _of_two(maker)

    def loss(made: Tensor, wanted: Tensor) -> Tensor:
        if maker.operator == "Sigmoid":
            return two(made, functional.one_hot(wanted.long(), made.shape[axis]).movedim(-1, axis))
        if maker.operator == "Softmax" and not maker.scores:
            logarithms = made.clamp_min(torch.finfo(made.dtype).tiny).log()
        else:  # which leaves those of a LogSoftmax as they are
            logarithms = functional.log_softmax(made, axis)
        return functional.nll_loss(logarithms.movedim(axis, 1).contiguous(), wanted.long())  # its gradient has to be

    return loss


def _of_two(maker: Maker) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(made: Tensor, wanted: Tensor) -> Tensor:
        wanted = wanted.reshape(made.shape).to(made.dtype)
        if maker.operator == "Sigmoid" and not maker.scores:
            return functional.binary_cross_entropy(made, wanted)
        return functional.binary_cross_entropy_with_logits(made, wanted)

    return loss


def tensor(labels: NDArray[Any]) -> Tensor:
    """Labels in torch, numbers in single precision."""
    return torch.from_numpy(np.ascontiguousarray(labels, np.float32 if labels.dtype.kind == "f" else np.int64))
