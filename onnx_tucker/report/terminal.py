"""The report on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text  # names of nodes may look like rich's markup

from onnx_tucker.report.front import HEADERS, Front
from onnx_tucker.report.numbers import UNKNOWN, factor, milliseconds, share, small
from onnx_tucker.report.schema import Report
from onnx_tucker.report.table import machine, table
from onnx_tucker.types import Closeness

BENCH_HEADERS = ("model", "time ms", "spread ms", "speed-up", "95 % interval")
COMPARE_HEADERS = ("output", "relative error", "largest", "cosine", "SNR dB", "same largest value")
_STYLES = {"factorized": "green", "lowered": "cyan", "kept": "", "skipped": "dim"}
_RIGHT = {"params", "FLOPs", "time ms", "in situ ms", "speed-up", "share", "weight error", "output error"}


def show(report: Report, console: Console) -> None:
    """Prints the table and its notes."""
    content = table(report)
    grid = _grid(content.headers, left=set(content.headers) - _RIGHT)
    for node, row in zip(report.nodes, content.rows, strict=True):
        grid.add_row(*map(Text, row), style=_STYLES.get(node.status, ""))
    grid.add_section()
    grid.add_row(*map(Text, content.totals), style="bold")
    console.print(grid)
    _say(console, *content.notes)


def show_front(found: Front, console: Console) -> None:
    """Prints the models of a sweep."""
    grid = _grid(HEADERS)
    for row in found.rows():
        grid.add_row(*map(Text, row))
    console.print(grid)
    original = "" if found.original_score is None else f"The original's score is {found.original_score:.4g}. "
    _say(console, original + machine(found.environment))


def show_compared(outputs: Iterable[Closeness], notes: Iterable[str], console: Console) -> None:
    """Prints how close outputs of two models are."""
    grid = _grid(COMPARE_HEADERS, left={"output"})
    for output in outputs:
        numbers = (output.relative_l2, output.max_abs)
        cosine = UNKNOWN if output.cosine is None else f"{output.cosine:.6f}"
        decibels = UNKNOWN if output.snr_db is None else f"{output.snr_db:.1f}"
        cells = (output.name, *map(small, numbers), cosine, decibels, share(output.argmax_agreement))
        grid.add_row(*map(Text, cells))
    console.print(grid)
    _say(console, *notes)


def show_bench(
    rows: Iterable[tuple[str, float, float, float, tuple[float, float]]],
    environment: Mapping[str, Any],
    console: Console,
) -> None:
    """Prints models side by side.

    Args:
        rows: model, median and interquartile range in milliseconds, speed-up and its interval.
        environment: what the times depend on.
        console: where to.
    """
    grid = _grid(BENCH_HEADERS, left={"model"})
    for model, ms, spread, speedup, (low, high) in rows:
        cells = (model, milliseconds(ms), milliseconds(spread), factor(speedup), f"{low:.2f} to {high:.2f}")
        grid.add_row(*map(Text, cells))
    console.print(grid)
    _say(console, machine(environment))


def _grid(headers: Iterable[str], left: Collection[str] = ()) -> RichTable:
    columns = [Column(h, justify="left" if h in left else "right", overflow="fold") for h in headers]
    return RichTable(*columns, pad_edge=False, box=None)


def _say(console: Console, *notes: str) -> None:
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
