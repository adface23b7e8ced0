"""Recurrent operators of ONNX in torch, which onnx2torch lacks; their weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from onnx_tucker.errors import UnsupportedError
from onnx_tucker.graph.recurrent import usual

Operator = Callable[..., tuple[Tensor, ...]]

GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
"""Where torch's gates are among ONNX's: i, f, g, o among i, o, f, c; and r, z, n among z, r, h."""


def lstm(attributes: dict[str, Any]) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__LSTM.html."""
    return _operator("LSTM", attributes)


def gru(attributes: dict[str, Any]) -> Operator:
    """https://onnx.ai/onnx/operators/onnx__GRU.html."""
    if not attributes.get("linear_before_reset"):
        raise UnsupportedError("a GRU whose reset gate comes before the product")
    return _operator("GRU", attributes)


def _operator(kind: str, attributes: dict[str, Any]) -> Operator:
    direction = attributes.get("direction", "forward")
    directions = 2 if direction == "bidirectional" else 1
    if not usual(kind, attributes):
        raise UnsupportedError(f"an {kind} with other activations, clipping or layout")

    def run(x: Tensor, w: Tensor, r: Tensor, *others: Tensor | None) -> tuple[Tensor, ...]:
        bias, lengths, *states = (*others, *[None] * 5)[:4] if kind == "LSTM" else (*others, *[None] * 3)[:3]
        peepholes = others[4] if len(others) > 4 else None
        if peepholes is not None or (lengths is not None and bool((lengths != len(x)).any())):
            raise UnsupportedError("peepholes, or sequences of different lengths")
        none = x.new_zeros(directions, x.shape[1], r.shape[-1])
        known = [none if state is None else state for state in states]
        biases = [None] * directions if bias is None else bias
        params = [part for way in zip(w, r, biases, strict=True) for part in _weights(kind, *way)]
        x = x.flip(0) if direction == "reverse" else x
        rest = (params, bias is not None, 1, 0.0, torch.is_grad_enabled(), directions == 2, False)
        y, *ends = torch.lstm(x, known, *rest) if kind == "LSTM" else torch.gru(x, known[0], *rest)
        y = y.reshape(*y.shape[:2], directions, -1).swapaxes(1, 2)
        return (y.flip(0) if direction == "reverse" else y, *ends)

    return run


def _weights(kind: str, w: Tensor, r: Tensor, bias: Tensor | None) -> Sequence[Tensor]:
    """The weights of a direction in torch's order."""
    parts = [w, r, *(() if bias is None else bias.chunk(2))]
    chunks = [part.chunk(len(GATES[kind])) for part in parts]
    return [torch.cat([gates[i] for i in GATES[kind]]) for gates in chunks]
