"""Recurrent layers of the usual kind, which are all that derivatives and training know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACTIVATIONS = {"LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
"""Those of one direction unless others are given."""
UNUSUAL = ("clip", "input_forget", "layout", "activation_alpha", "activation_beta")
"""Attributes that change what a layer computes; whoever gives them as 0 means what is usual."""


def usual(op: str, attributes: Mapping[str, Any]) -> bool:
    """Whether an LSTM or a GRU has the usual activations and layout, and clips nothing."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    told = tuple(name.decode().lower() for name in attributes.get("activations", ()))
    return told in ((), ACTIVATIONS[op] * directions) and not any(attributes.get(name) for name in UNUSUAL)
