"""The report as a Markdown document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnx_tucker.report.schema import Report
from onnx_tucker.report.table import table


def to_markdown(report: Report) -> str:
    """A table and the notes below it."""
    content = table(report)
    totals = tuple(f"**{cell}**" if cell else "" for cell in content.totals)
    return "\n\n".join(["\n".join(lines(content.headers, [*content.rows, totals])), *content.notes]) + "\n"


def lines(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table, line by line."""
    return [_line(headers), _line(["---"] * len(headers)), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    """A row of a table; what would end a cell, or begin HTML, is shown as it is."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") for cell in cells) + " |"
