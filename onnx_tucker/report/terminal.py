"""The report on a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from rich.text import Text  # names of nodes may look like rich's markup

from onnx_tucker.report.schema import Report
from onnx_tucker.report.table import table

_STYLES = {"factorized": "green", "lowered": "cyan", "kept": "", "skipped": "dim"}
_RIGHT = {"params", "FLOPs", "time ms", "speed-up", "share", "weight error", "output error"}


def show(report: Report, console: Console) -> None:
    """Prints the table and its notes."""
    content = table(report)
    columns = [Column(h, justify="right" if h in _RIGHT else "left", overflow="fold") for h in content.headers]
    grid = RichTable(*columns, pad_edge=False, box=None)
    for node, row in zip(report.nodes, content.rows, strict=True):
        grid.add_row(*map(Text, row), style=_STYLES.get(node.status, ""))
    grid.add_section()
    grid.add_row(*map(Text, content.totals), style="bold")
    console.print(grid)
    for note in content.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
