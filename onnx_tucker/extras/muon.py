"""Steps of matrices whose singular values are all about as large.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, with steps of the size that Liu et al.
give them, "Muon is Scalable for LLM Training", 2025. torch has it too, from version 2.9 on, but in half precision,
which takes up to forty times as long on CPUs without instructions for that: a second and a half for 256 x 2304.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ROUNDS, POLYNOMIAL = 5, (3.4445, -4.7750, 2.0315)
"""How often singular values go through the odd polynomial of these coefficients: those above a hundredth of the norm
come to lie between .7 and 1.2.
"""
SIZE = 0.2
"""The root of the mean square of a step over the learning rate: about that of AdamW (Liu et al., equation 4)."""
TINY = 1e-12


class Muon(torch.optim.Optimizer):
    """Takes steps down a mean of the last derivatives, with all of its singular values at about one.

    Where few directions of a matrix have large derivatives, as there are where inputs have a few large principal
    components, steps in proportion to them, or to each element's size as Adam's are, hardly change the others.

    Args:
        groups: weights of two dimensions or more, as matrices of their first one by all others, and their learning
            rates and decays, as they are for AdamW.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {"weight_decay": 0.0})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Takes a step of all weights that have derivatives."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                known = self.state[weight]
                if not known:
                    known["exp_avg"] = torch.zeros_like(weight)
                mean = known["exp_avg"]
                mean.lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(mean, MOMENTUM)
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(ahead.flatten(1)).view_as(weight), alpha=-SIZE * group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """About the matrix with the same singular vectors and equal singular values whose elements' mean square is one."""
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    made: Tensor = wide / (wide.norm() + TINY)
    first, third, fifth = POLYNOMIAL
    for _ in range(ROUNDS):
        gram = made @ made.T
        made = first * made + (third * gram + fifth * gram @ gram) @ made
    return (made if wide is matrix else made.T) * math.sqrt(max(matrix.shape))
