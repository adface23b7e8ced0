"""Through recurrent layers, back in time (Werbos, "Backpropagation Through Time", Proceedings of the IEEE 78, 1990)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from onnx_tucker.adjoints.call import Call, Value
from onnx_tucker.graph.recurrent import usual


class Way(NamedTuple):
    """One direction of a layer, in the order of its steps.

    Attributes:
        x: inputs, (steps, samples, in).
        w: weights of the inputs, (gates * hidden, in).
        r: of the state before, (gates * hidden, hidden).
        bias: of both, (2, gates * hidden).
        states: at the beginning, each (samples, hidden).
        change: derivatives with respect to the outputs, (steps, samples, hidden).
        ends: with respect to the states in the end, each (samples, hidden).
    """

    x: Value
    w: Value
    r: Value
    bias: Value
    states: Sequence[Value]
    change: Value
    ends: Sequence[Value]


def recurrent(call: Call, changes: Sequence[Value | None], index: int) -> Value:
    """Through an LSTM or a GRU (https://onnx.ai/onnx/operators/onnx__LSTM.html), to its inputs."""
    x, w, r = (call.given(i) for i in range(3))
    bias, lengths, *states = ([*call.inputs[3:], *[None] * 5])[:4]
    peepholes = call.inputs[7] if len(call.inputs) > 7 else None
    if index or peepholes is not None or not usual(call.op, call.attributes):
        raise ValueError("states or weights that vary, other activations or layout, or what is clipped")
    if lengths is not None and (lengths != len(x)).any():
        raise ValueError("sequences of different lengths")
    through = _lstm if call.op == "LSTM" else _before if call.attributes.get("linear_before_reset") else _after
    hidden, reverse = r.shape[-1], call.attributes.get("direction", "forward") == "reverse"
    none = np.zeros((len(w), x.shape[1], hidden), np.float32)
    change, *ends = ([*changes, None, None])[:3]
    change = np.zeros((len(x), *none.shape), np.float32) if change is None else change
    bias = np.zeros((len(w), 2 * w.shape[1]), np.float32) if bias is None else bias
    found = np.zeros_like(x)
    for i in range(len(w)):
        order = slice(None, None, -1 if i or reverse else 1)
        way = Way(
            x[order],
            w[i],
            r[i],
            bias[i].reshape(2, -1),
            [none[i] if state is None else state[i] for state in states],
            change[order, i],
            [none[i] if end is None else end[i] for end in ends],
        )
        found += (through(way) @ way.w)[order]
    return found


def _lstm(way: Way) -> Value:
    """The derivatives with respect to what each gate is before its activation, in the order i, o, f, c."""
    seen = way.x @ way.w.T + way.bias.sum(axis=0)
    h, c = way.states
    steps = []
    for now in seen:
        *gates, new = np.split(now + h @ way.r.T, 4, axis=1)
        i, o, f = (scipy.special.expit(gate) for gate in gates)
        new, before = np.tanh(new), c
        c = f * c + i * new
        h = o * np.tanh(c)
        steps.append((i, o, f, new, before, np.tanh(c)))
    found: Value = np.empty_like(seen)
    dh, dc = way.ends
    for t in reversed(range(len(seen))):
        i, o, f, new, before, bent = steps[t]
        dh = dh + way.change[t]
        dc = dc + dh * o * (1 - bent * bent)
        parts = [
            dc * new * i * (1 - i),
            dh * bent * o * (1 - o),
            dc * before * f * (1 - f),
            dc * i * (1 - new * new),
        ]
        found[t] = np.concatenate(parts, axis=1)
        dh, dc = found[t] @ way.r, dc * f
    return found


def _after(way: Way) -> Value:
    """Those of a GRU in the order z, r, h, whose new state sees the state before as far as it is not reset."""

    def new(h: Value, reset: Value, weight: Value, bias: Value) -> Value:
        return np.asarray((reset * h) @ weight.T + bias)

    def back(change: Value, h: Value, reset: Value, weight: Value, bias: Value) -> tuple[Value, Value]:
        passed = change @ weight
        return passed * reset, passed * h

    return _gru(way, new, back)


def _before(way: Way) -> Value:
    """Those of a GRU that resets what its weight has made of the state before."""

    def new(h: Value, reset: Value, weight: Value, bias: Value) -> Value:
        return np.asarray(reset * (h @ weight.T + bias))

    def back(change: Value, h: Value, reset: Value, weight: Value, bias: Value) -> tuple[Value, Value]:
        return (change * reset) @ weight, change * (h @ weight.T + bias)

    return _gru(way, new, back)


def _gru(way: Way, new: Callable[..., Value], back: Callable[..., tuple[Value, Value]]) -> Value:
    """The derivatives with respect to what each gate is before its activation.

    Args:
        way: the layer.
        new: what the state before adds to the new state, of the state, the reset, the weight and the bias.
        back: from the derivative with respect to that and the same, those with respect to the state and the reset.
    """
    size = way.r.shape[1]
    gates, own = way.r[: 2 * size], (way.r[2 * size :], way.bias[1, 2 * size :])
    seen = way.x @ way.w.T + way.bias[0]
    h, steps = way.states[0], []
    for now in seen:
        added = h @ gates.T + way.bias[1, : 2 * size]
        keep, reset = np.split(scipy.special.expit(now[:, : 2 * size] + added), 2, axis=1)
        fresh = np.tanh(now[:, 2 * size :] + new(h, reset, *own))
        steps.append((keep, reset, fresh, h))
        h = (1 - keep) * fresh + keep * h
    found: Value = np.empty_like(seen)
    dh = way.ends[0]
    for t in reversed(range(len(seen))):
        keep, reset, fresh, before = steps[t]
        dh = dh + way.change[t]
        dfresh = dh * (1 - keep) * (1 - fresh * fresh)
        passed, dreset = back(dfresh, before, reset, *own)
        found[t] = np.concatenate(
            [dh * (before - fresh) * keep * (1 - keep), dreset * reset * (1 - reset), dfresh], axis=1
        )
        dh = dh * keep + passed + found[t, :, : 2 * size] @ gates
    return found
