"""The report on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable

from onnx_tucker.report.schema import Report
from onnx_tucker.report.table import HEADERS, table

_STYLES = {"factorized": "green", "lowered": "cyan", "kept": "", "skipped": "dim"}
_RIGHT = {"params", "FLOPs", "time ms", "speed-up", "share", "weight error", "output error"}


def show(report: Report, console: Console) -> None:
    """Prints the table and its notes; columns that are empty everywhere are left out."""
    content = table(report)
    rows = [*content.rows, content.totals]
    used = [i for i in range(len(HEADERS)) if any(row[i] for row in rows)]
    grid = RichTable(
        *[Column(HEADERS[i], justify="right" if HEADERS[i] in _RIGHT else "left", overflow="fold") for i in used],
        pad_edge=False,
        box=None,
    )
    for node, row in zip(report.nodes, content.rows, strict=True):
        grid.add_row(*[_plain(row[i]) for i in used], style=_STYLES.get(node.status, ""))
    grid.add_section()
    grid.add_row(*[_plain(content.totals[i]) for i in used], style="bold")
    console.print(grid)
    for note in content.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)


def _plain(cell: str) -> str:
    return cell.replace("[", "\\[")  # node names may look like rich's markup
