"""The report as one table and a few sentences, which the terminal, Markdown and HTML all show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx_tucker.report.numbers import UNKNOWN, count, factor, milliseconds, share, small
from onnx_tucker.report.schema import Change, Fidelity, NodeReport, Report
from onnx_tucker.types import Closeness

HEADERS = (
    "node",
    "op",
    "shape",
    "status",
    "method",
    "form",
    "ranks",
    "params",
    "FLOPs",
    "time ms",
    "in situ ms",
    "speed-up",
    "share",
    "weight error",
    "output error",
    "reason",
)


@dataclass(frozen=True)
class Table:
    """Cells as text: a row for each node, one for the totals, and sentences below. No column is empty."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    totals: tuple[str, ...]
    notes: tuple[str, ...]


def table(report: Report) -> Table:
    """The report as text."""
    rows = [*(_row(node) for node in report.nodes), _totals(report)]
    used = [i for i in range(len(HEADERS)) if any(row[i] for row in rows)]
    *body, totals = [tuple(row[i] for i in used) for row in (HEADERS, *rows)]
    return Table(body[0], tuple(body[1:]), totals, tuple(_notes(report)))


def _change(change: Change[int] | Change[float], show: Callable[[float | None], str]) -> str:
    if change.before == change.after or change.after is None:
        return show(change.before)
    return f"{show(change.before)} → {show(change.after)}"


def _row(node: NodeReport) -> tuple[str, ...]:
    return (
        node.name,
        node.op,
        "x".join(map(str, node.shape)) if node.shape else UNKNOWN,
        node.status,
        node.method or "",
        node.form if node.form not in (None, "direct") else "",
        ", ".join(map(str, node.ranks or ())),
        _change(node.params, count),
        _change(node.flops, count),
        _change(node.time_ms, milliseconds),
        _change(node.in_situ_ms, milliseconds) if node.in_situ_ms.before else "",
        factor(node.speedup) if node.form else "",
        share(node.time_share),
        small(node.error.weight) if node.form else "",
        small(node.error.output) if node.form else "",
        node.reason,
    )


def _totals(report: Report) -> tuple[str, ...]:
    totals = report.totals
    factorised, lowered = (sum(n.status == s for n in report.nodes) for s in ("factorized", "lowered"))
    cells = {
        "node": "total",
        "status": f"{factorised} of {len(report.nodes)} factorized" + (f", {lowered} lowered" if lowered else ""),
        "params": _change(totals.params, count),
        "FLOPs": _change(totals.flops, count),
        "time ms": _change(totals.time_ms, milliseconds),
        "speed-up": factor(totals.speedup),
    }
    return tuple(cells.get(header, "") for header in HEADERS)


def _notes(report: Report) -> list[str]:
    totals, notes = report.totals, []
    bias = totals.bias_params
    notes.append(
        f"params are weights; biases ({count(bias.before)}) are not counted among them. "
        f"FLOPs by the convention {report.settings['flops']!r}, totals over the nodes listed."
    )
    if totals.params.after and any(node.form for node in report.nodes):
        promised = _ratio(totals.flops)
        line = f"Weights {factor(_ratio(totals.params))}, FLOPs {factor(promised)}{_computed(report)}"
        if totals.speedup is not None and totals.speedup_ci is not None:
            low, high = totals.speedup_ci
            line += f", measured time {factor(totals.speedup)} (95 % interval {low:.2f} to {high:.2f})"
        notes.append(line + ".")
    if report.fidelity is not None:
        notes += [_fidelity(report.fidelity, output) for output in report.fidelity.outputs]
    if totals.score.before is not None and totals.score.after is not None:
        notes.append(f"Score {totals.score.before:.6g} → {totals.score.after:.6g}.")
    last = machine(report.environment)
    if any(node.time_ms.before is not None for node in report.nodes):
        last += " Node times are of the node alone, in situ within the whole model."
    if report.environment["remembered_times"]:
        last += " Times are of an earlier run; --no-cache measures anew."
    return [*notes, last]


def _computed(report: Report) -> str:
    """What forms on frames make of the multiplications, in words; empty where there are none of those."""
    before = report.totals.macs.before
    after = [node.macs.after if node.form_macs is None else node.form_macs for node in report.nodes]
    if not before or None in after or all(node.form_macs is None for node in report.nodes):
        return ""
    return f" (multiplications {factor(before / sum(filter(None, after)))} as they are computed, on frames)"


def machine(env: Mapping[str, Any]) -> str:
    """The machine and the versions in a sentence."""
    return (
        f"{env['cpu']}, threads {env['threads']}; onnxruntime {env['onnxruntime']}, onnx-tucker {env['onnx_tucker']}, "
        f"Python {env['python']}."
    )


def _fidelity(fidelity: Fidelity, output: Closeness) -> str:
    agree = (
        "" if output.argmax_agreement is None else f", largest value in the same place {output.argmax_agreement:.1%}"
    )
    where = samples(fidelity.inputs, fidelity.samples)
    parts = ", ".join(f"{part.name} {small(part.relative_l2)}" for part in output.others)
    inner = f" (of what it follows from: {parts})" if parts else ""
    return f"Output {output.name}: relative error {small(output.relative_l2)}{inner}{agree}, on {where}."


def samples(kind: str, number: int) -> str:
    """So many inputs, "data" or "random", in words."""
    what = "the data" if kind == "data" else "random noise (no --data), which says little about real inputs"
    return f"{number} sample{'s' if number > 1 else ''} of {what}"


def _ratio(change: Change[int]) -> float | None:
    return change.before / change.after if change.before and change.after else None
