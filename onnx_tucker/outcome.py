"""What came out: the report on a finished run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from onnx_tucker.cost import FLOPS, Cost, chain_cost
from onnx_tucker.factor import METHODS
from onnx_tucker.forms import FORMS, macs
from onnx_tucker.graph.find import Found
from onnx_tucker.job import Job
from onnx_tucker.planning.pricing import Decision, Price
from onnx_tucker.report.schema import (
    Change,
    Fidelity,
    NodeError,
    NodeReport,
    Report,
    Time,
    Totals,
    total,
)
from onnx_tucker.runtime.session import environment
from onnx_tucker.runtime.timing import Timing
from onnx_tucker.types import Candidate, Choice, Closeness


@dataclass(frozen=True)
class Outcome:
    """What a run produced, beside the model itself.

    Attributes:
        decision: the plan and the times of single nodes.
        weight_errors: relative Frobenius error of each chain's weight, by node.
        timings: of the whole model before and after, or None.
        closeness: of the outputs, or None.
        file_bytes: size of the model before, and after unless nothing was made.
        biases: what new weights come with, by node; see `fitting.factorise.Factorised`.
        output_errors: relative L2 error of each chain's output, by node, where it was measured.
        in_situ: times of single nodes within the whole model, before and after.
        score: the user's, before and after, if it was asked for.
    """

    decision: Decision
    weight_errors: Mapping[str, float | None]
    timings: Sequence[Timing] | None
    closeness: Sequence[Closeness] | None
    file_bytes: Change[int]
    biases: Mapping[str, onnx.TensorProto]
    output_errors: Mapping[str, float | None] = field(default_factory=dict)
    in_situ: Change[dict[str, float]] = field(default_factory=Change)
    score: Change[float] = field(default_factory=Change)


def report(job: Job, outcome: Outcome) -> Report:
    """The report on a run; a dry run has no chains, and so no errors."""
    whole = outcome.timings[0].ms if outcome.timings else None
    biases = _biases(job, outcome.biases)
    nodes = tuple(
        _node(job, found, choice, outcome, whole, biases[found.label])
        for found, choice in zip(job.found, outcome.decision.plan.choices, strict=True)
    )
    before, after = (*(outcome.timings or ()), None, None)[:2]
    totals = Totals(
        params=total(n.params for n in nodes),
        bias_params=total(n.bias_params for n in nodes),
        macs=total(n.macs for n in nodes),
        flops=total(n.flops for n in nodes),
        file_bytes=outcome.file_bytes,
        time_ms=_time(before, after, "ms"),
        time_spread_ms=_time(before, after, "spread_ms"),
        speedup=after.speedup if after else None,
        speedup_ci=after.speedup_ci if after else None,
        score=outcome.score,
    )
    return Report(
        nodes=nodes,
        totals=totals,
        fidelity=_fidelity(job, outcome.closeness),
        environment={**environment(job.machine), "remembered_times": _remembered(outcome)},
        settings=job.settings.as_dict(),
    )


def _biases(job: Job, new: Mapping[str, onnx.TensorProto]) -> dict[str, int]:
    """How many values the bias of each node has afterwards; of nodes that share one, the first has them."""
    sizes = {f.reading.bias_origin: f.reading.bias_params for f in reversed(job.found)}
    counts, counted = {}, set()
    for found in job.found:
        origin = found.reading.bias_origin
        if origin is not None and found.label in new:
            counts[found.label] = math.prod(new[found.label].dims) if found.group == found.label else 0
        else:
            counts[found.label] = 0 if origin in counted else sizes[origin]
            counted |= {origin} if origin is not None else set()
    return counts


def _remembered(outcome: Outcome) -> bool:
    """Whether any time was measured by an earlier run."""
    alone = [t for price in outcome.decision.prices.values() for t in (price.before, price.after) if t]
    return any(t.remembered for t in (*alone, *(outcome.timings or ())))


def _node(job: Job, found: Found, choice: Choice, outcome: Outcome, whole: float | None, bias: int) -> NodeReport:
    reading, price = found.reading, outcome.decision.prices.get(choice.name)
    convention = job.settings.flops
    layer_ = reading.layer
    before = Cost(
        reading.params or 0,
        layer_.macs if layer_ else None,
        FLOPS[convention](layer_) if layer_ else None,
    )
    after = before
    if choice.method and choice.ranks and found.is_site:
        after = chain_cost(found.site, METHODS[choice.method].stages(found.site.stage, choice.ranks), convention)
        if not before.params:  # its weight is counted with another node
            after = replace(after, params=0)
    first, last = _times(price, choice)
    return NodeReport(
        name=choice.name,
        op=choice.op,
        shape=choice.shape,
        status=choice.status,
        reason=_reason(choice, outcome),
        method=choice.method,
        form=choice.form,
        ranks=choice.ranks,
        params=Change(before.params, after.params) if reading.params is not None else Change(),
        bias_params=Change(reading.bias_params, bias),
        macs=Change(before.macs, after.macs),
        flops=Change(before.flops, after.flops),
        time_ms=_time(first, last, "ms"),
        time_spread_ms=_time(first, last, "spread_ms"),
        in_situ_ms=_within(choice, outcome, made=not job.settings.dry_run),
        speedup=last.speedup if last else None,
        speedup_ci=last.speedup_ci if last else None,
        time_share=first.ms / whole if first and whole else None,
        error=NodeError(outcome.weight_errors.get(choice.name), outcome.output_errors.get(choice.name)),
        form_macs=_form_macs(found, choice),
    )


def _form_macs(found: Found, choice: Choice) -> int | None:
    """Multiply-accumulates of a node or its chain on frames."""
    form = FORMS[choice.form or "direct"]
    if not form.on_frames or found.site.input_shape is None:
        return None
    return macs(found.own(Candidate(choice.method, choice.ranks, ())).stages, found.site.input_shape, form)


def _within(choice: Choice, outcome: Outcome, *, made: bool) -> Time:
    """Before and after within the whole model; after is not known of chains that were not made."""
    before, after = ((times or {}).get(choice.name) for times in (outcome.in_situ.before, outcome.in_situ.after))
    return Change(before, after if made or choice.form is None else None)


def _reason(choice: Choice, outcome: Outcome) -> str:
    """Why a node is what it is; one that only has new weights is not factorised either."""
    refitted = choice.method is None and outcome.weight_errors.get(choice.name) not in (None, 0.0)
    return "; ".join(filter(None, (choice.reason, "weights refitted to what comes before" if refitted else "")))


def _times(price: Price | None, choice: Choice) -> tuple[Timing | None, Timing | None]:
    """Before and after; a node that stays takes as long as it took."""
    if price is None:
        return None, None
    return price.before, price.after if choice.form else price.before


def _time(before: Timing | None, after: Timing | None, name: str) -> Time:
    return Change(getattr(before, name, None), getattr(after, name, None))


def _fidelity(job: Job, closeness: Sequence[Closeness] | None) -> Fidelity | None:
    if closeness is None or job.inputs is None:
        return None
    return Fidelity(job.inputs.kind, job.inputs.check.samples, tuple(closeness))
