"""A network on its way: its weights, their mean, and what takes their steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from onnx_tucker.course import Course
from onnx_tucker.extras.muon import Muon
from onnx_tucker.extras.network import Network

DECAY = 1e-4
"""Of weights, at a learning rate of one."""
SMALL = 1e-3
"""The size that a weight counts as at least, for its steps."""
WIDE = 128
"""Inputs of a value from which on steps are smaller."""
NARROW = 256
"""The shorter side up to which matrices take the steps of Muon, which cost so many times what there is of weights."""
SETTLED = 10
"""Steps in which it rises too whenever weights are new: Adam's first ones are of full size, in whichever direction."""


class Pupil:
    """A network on its way: what takes its steps, and the mean of its last weights, which is better than any of them.

    Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30(4), 1992.
    """

    def __init__(self, network: Network, course: Course) -> None:
        self._network = network
        kinds = zip((Muon, torch.optim.AdamW), groups(network, course), strict=True)
        self._optimisers = [kind(weights) for kind, weights in kinds if weights]
        self._rates = [group["lr"] for group in self._groups]
        self._mean, self._count = copied(network), 0

    def learn(self, loss: Tensor, rate: float, over: int) -> float:
        """Takes a step down a loss, at a share of the rate; the mean is of about so many steps.

        It takes none where the derivatives are not finite, which would make all weights so.

        Returns:
            The loss.
        """
        for group, full in zip(self._groups, self._rates, strict=True):
            group["lr"] = full * rate * min(1.0, (self._count + 1) / SETTLED)
        for optimiser in self._optimisers:
            optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        slopes = (weight.grad for weight in self._network.weights.values() if weight.grad is not None)
        if torch.stack([torch.isfinite(slope).all() for slope in slopes]).all():
            for optimiser in self._optimisers:
                optimiser.step()
            self._count += 1
            for name, weight in self._network.weights.items():
                self._mean[name].lerp_(weight.detach(), 1 / min(self._count, over))
        return float(loss.detach())

    def back(self, weights: Mapping[str, Tensor]) -> None:
        """Goes on from other weights, with what is known of the size of their derivatives."""
        put(self._network, weights)
        self._mean, self._count = copied(self._network), 0
        for optimiser in self._optimisers:
            for known in optimiser.state.values():
                known["exp_avg"].zero_()

    @property
    def moved(self) -> bool:
        """Whether it has taken a step."""
        return self._count > 0

    @contextmanager
    def at_its_mean(self) -> Iterator[None]:
        """The network has the mean of its last weights."""
        last = copied(self._network)
        put(self._network, self._mean)
        try:
            yield
        finally:
            put(self._network, last)

    def state(self) -> dict[str, Any]:
        """What `load` needs."""
        known = {"weights": copied(self._network), "mean": self._mean, "count": self._count, "rates": self._rates}
        return {**known, "optimisers": [optimiser.state_dict() for optimiser in self._optimisers]}

    def load(self, known: dict[str, Any]) -> None:
        """Goes on from a state."""
        put(self._network, known["weights"])
        self._mean, self._count, self._rates = known["mean"], known["count"], known["rates"]
        for optimiser, state in zip(self._optimisers, known["optimisers"], strict=True):
            optimiser.load_state_dict(state)

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimiser in self._optimisers for group in optimiser.param_groups]


def groups(network: Network, course: Course) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each weight with a step in proportion to its own size, and smaller where many inputs go into a value.

    Steps of Adam are of the same size for all elements of a weight, and at first they all help each other, while its
    elements do not: a value changes with the number of its inputs, but is as large as the root of that (Yang et al.,
    "Tensor Programs V", NeurIPS 2021). Steps go with the size as Shazeer and Stern have it, "Adafactor: Adaptive
    Learning Rates with Sublinear Memory Cost", ICML 2018, section 8.

    Returns:
        Matrices, for Muon, and others, for AdamW.
    """
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for weight in network.weights.values():
        size = max(float(weight.detach().square().mean().sqrt()), SMALL)
        wide = math.sqrt(WIDE / max(WIDE, _inputs(weight)))
        kind = matrices if 1 < _side(weight) <= NARROW else others
        kind.append({"params": [weight], "lr": course.learning_rate * size * wide, "weight_decay": DECAY})
    return matrices, others


def _side(weight: Tensor) -> int:
    """The shorter side of the matrix of the first dimension by all others."""
    return min(len(weight), weight[0].numel()) if weight.ndim > 1 and weight.numel() else 1


def _inputs(weight: Tensor) -> int:
    """How many inputs go into a value, as far as the shape tells: those of products may lie either way."""
    if weight.ndim < 2:
        return 1
    return max(weight.shape) if weight.ndim == 2 else weight[0].numel()


def copied(network: Network) -> dict[str, Tensor]:
    """Copies of a network's weights, by name."""
    return {name: weight.detach().clone() for name, weight in network.weights.items()}


def put(network: Network, weights: Mapping[str, Tensor]) -> None:
    """Gives a network other values for its weights."""
    with torch.no_grad():
        for name, weight in network.weights.items():
            weight.copy_(weights[name])
