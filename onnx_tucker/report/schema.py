"""The report as data: what every format shows, and what `report.json` holds under schema onnx-tucker/report/1.

A value that is not known is None, never invented. Counts are numbers of weights, MACs and FLOPs; times are
milliseconds; sizes are bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from onnx_tucker.types import Closeness

SCHEMA = "onnx-tucker/report/1"

T = TypeVar("T")


@dataclass(frozen=True)
class Change(Generic[T]):
    """A value before and after; either is None where it is not known."""

    before: T | None = None
    after: T | None = None


Count = Change[int]
Time = Change[float]


@dataclass(frozen=True)
class NodeError:
    """What a change cost.

    Attributes:
        weight: relative Frobenius error of the weight.
        output: relative L2 error of the node's own output, on what the original computes for it from the input that the
            whole model is timed on.
    """

    weight: float | None = None
    output: float | None = None


@dataclass(frozen=True)
class NodeReport:
    """One weight-bearing node.

    Attributes:
        name: node name, or its output's where it has none.
        op: operator type.
        shape: canonical weight shape (out, in, *kernel).
        status: "factorized", "lowered", "kept" or "skipped".
        reason: why it is kept or skipped, or not factorised where it is lowered.
        method: decomposition.
        form: how its arithmetic is laid out; "direct" for layers of the node's own operator.
        ranks: one for each mode of the method, in the order of `Method.modes`.
        params: weights without the bias.
        bias_params: constant bias values.
        macs: multiply-accumulates for the counted input shape.
        flops: in the convention of the settings.
        time_ms: median time of the node, and of its chain, alone.
        time_spread_ms: interquartile range of those times.
        in_situ_ms: the node's time, and its chain's, within the whole model, from a profile of it.
        speedup: median ratio of times, measured in turn.
        speedup_ci: its 95 % confidence interval.
        time_share: the node's time alone over the whole input model's time.
        error: what the change cost.
        form_macs: multiply-accumulates on frames, with those that the form adds and saves; None of other forms.
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    status: str
    reason: str
    method: str | None
    form: str | None
    ranks: tuple[int, ...] | None
    params: Count
    bias_params: Count
    macs: Count
    flops: Count
    time_ms: Time
    time_spread_ms: Time
    in_situ_ms: Time
    speedup: float | None
    speedup_ci: tuple[float, float] | None
    time_share: float | None
    error: NodeError
    form_macs: int | None = None


@dataclass(frozen=True)
class Totals:
    """The whole model: counts are sums over the weight-bearing nodes, None where one of them is not known.

    Attributes:
        score: that of `--eval`.
    """

    params: Count
    bias_params: Count
    macs: Count
    flops: Count
    file_bytes: Count
    time_ms: Time
    time_spread_ms: Time
    speedup: float | None
    speedup_ci: tuple[float, float] | None
    score: Change[float]


@dataclass(frozen=True)
class Fidelity:
    """How close the result's outputs are.

    Attributes:
        inputs: "data" for the user's samples, "random" for seeded noise, which says little about real inputs.
        samples: how many.
        outputs: one entry an output.
    """

    inputs: str
    samples: int
    outputs: tuple[Closeness, ...]


@dataclass(frozen=True)
class Report:
    """Everything that is known about a run."""

    nodes: tuple[NodeReport, ...]
    totals: Totals
    fidelity: Fidelity | None
    environment: Mapping[str, Any]
    settings: Mapping[str, Any]
    schema: str = SCHEMA

    def shares(self) -> dict[str, float]:
        """What the result has of the original's "time", "flops", "params" and "bytes", where that is known.

        FLOPs and weights are those of the nodes whose are known, which are what a budget is about.
        """
        changes: dict[str, Change[int] | Change[float]] = {
            "time": Change(1.0, 1 / self.totals.speedup) if self.totals.speedup else Change[float](),
            "flops": _of_known(node.flops for node in self.nodes),
            "params": _of_known(node.params for node in self.nodes),
            "bytes": self.totals.file_bytes,
        }
        return {name: c.after / c.before for name, c in changes.items() if c.before and c.after is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the schema first, NaN and infinity as None."""
        plain = finite(asdict(self))
        return {"schema": plain.pop("schema"), **plain}


def total(changes: Iterable[Count]) -> Count:
    """The sum on both sides, unknown where one of them is."""
    known = list(changes)
    return Change(_sum(c.before for c in known), _sum(c.after for c in known))


def _of_known(changes: Iterable[Count]) -> Count:
    known = [c for c in changes if c.before is not None and c.after is not None]
    return total(known)


def _sum(values: Iterable[int | None]) -> int | None:
    result = 0
    for value in values:
        if value is None:
            return None
        result += value
    return result


def finite(value: Any) -> Any:
    """Plain data without NaN and infinity."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value
