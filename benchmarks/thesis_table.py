"""The thesis network at the thesis's ranks: our counts and times beside the thesis's.

    python benchmarks/thesis_table.py [--threads N] [--out build/thesis_table.md]

Prints Markdown. The thesis's columns are what it published; all others are counted and measured here and now.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnx_tucker
from onnx_tucker.report.numbers import factor, milliseconds
from onnx_tucker.report.schema import NodeReport, Report

MODELS = Path(__file__).resolve().parent.parent / "models"

THESIS = {  # node: weights before, weights after, thousands of FLOPs before, as printed
    "conv1": (14_520, 4_852, "15,618,892.8"),
    "conv2": (58_080, 3_690, "697,158"),
    "fc1": (358_400, 14_266, "716.8"),
    "fc2": (10_752, 212, "21.5"),
    "fc3": (168, 168, "0.34"),
}
THESIS_FLOPS_SPEEDUP, THESIS_TIME_SPEEDUP = 8.28, 2.74

WORTH_SAYING = 0.8
"""A speed-up in time below this share of the one in FLOPs is pointed out."""


def main() -> int:
    """Measures and prints; returns 1 if a count differs from the thesis's."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="threads of an operator; 0: one a core")
    parser.add_argument("--out", type=Path, help="file to write the Markdown to as well")
    args = parser.parse_args()
    report = onnx_tucker.compress(
        MODELS / "strokes.onnx",
        ranks=str(MODELS / "thesis_ranks.toml"),
        lower=False,
        keep_slower=True,
        flops="thesis",
        threads=args.threads,
    ).report
    text = "\n".join([*_table(report), "", *_words(report), "", _machine(report)])
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")
    wrong = [n.name for n in report.nodes if _counts(n) != THESIS[n.name]]
    if wrong:
        print(f"Counts differ from the thesis's at {', '.join(wrong)}.", file=sys.stderr)
    return bool(wrong)


def _counts(node: NodeReport) -> tuple[int | None, int | None, str]:
    thousands = (node.flops.before or 0) / 1000
    digits = len(THESIS[node.name][2].partition(".")[2])
    return node.params.before, node.params.after, f"{thousands:,.{digits}f}"


def _table(report: Report) -> list[str]:
    lines = [
        "| layer | ranks | weights | thesis | compressed | thesis | kFLOPs | thesis | kFLOPs compressed | FLOPs ratio "
        "| time ms | compressed | time ratio | share of time |",
        "|" + "---|" * 14,
    ]
    for node in report.nodes:
        before, after, thousands = _counts(node)
        thesis = THESIS[node.name]
        lines.append(
            f"| {node.name} | {', '.join(map(str, node.ranks or ())) or '–'} | {before:,} | {thesis[0]:,} | {after:,} "
            f"| {thesis[1]:,} | {thousands} | {thesis[2]} | {(node.flops.after or 0) / 1000:,.1f} "
            f"| {factor(_ratio(node.flops.before, node.flops.after))} | {milliseconds(node.time_ms.before)} "
            f"| {milliseconds(node.time_ms.after)} | {factor(node.speedup)} | {node.time_share or 0:.1%} |"
        )
    totals = report.totals
    lines.append(
        f"| total | | {totals.params.before:,} | {sum(t[0] for t in THESIS.values()):,} | {totals.params.after:,} "
        f"| {sum(t[1] for t in THESIS.values()):,} | {(totals.flops.before or 0) / 1000:,.1f} | "
        f"| {(totals.flops.after or 0) / 1000:,.1f} | {factor(_ratio(totals.flops.before, totals.flops.after))} "
        f"| {milliseconds(totals.time_ms.before)} | {milliseconds(totals.time_ms.after)} | {factor(totals.speedup)} | |"
    )
    return lines


def _words(report: Report) -> list[str]:
    totals = report.totals
    low, high = totals.speedup_ci or (0.0, 0.0)
    promised = _ratio(totals.flops.before, totals.flops.after)
    words = [
        f"Whole model: FLOPs {factor(promised)}, time {factor(totals.speedup)} (95 % interval {low:.2f} to "
        f"{high:.2f}). The thesis measured x{THESIS_TIME_SPEEDUP} where its FLOPs promised x{THESIS_FLOPS_SPEEDUP}; "
        "its FLOPs after compression do not follow from its own ranks, ours are counted from them."
    ]
    for node in report.nodes:
        ratio = _ratio(node.flops.before, node.flops.after)
        if node.method and ratio and node.speedup and node.speedup < WORTH_SAYING * ratio:
            words.append(
                f"Time does not follow FLOPs at {node.name}: FLOPs {factor(ratio)}, time {factor(node.speedup)}, on a "
                f"layer that accounts for {node.time_share or 0:.1%} of the time."
            )
    return words


def _machine(report: Report) -> str:
    env = report.environment
    return (
        f"{env['cpu']}, threads {env['threads']}, {env['platform']}, Python {env['python']}, onnxruntime "
        f"{env['onnxruntime']}, onnx {env['onnx']}, numpy {env['numpy']}, tensorly {env['tensorly']}; FLOPs in the "
        "convention `thesis`; layers timed alone."
    )


def _ratio(before: int | None, after: int | None) -> float | None:
    return before / after if before and after else None


if __name__ == "__main__":
    sys.exit(main())
