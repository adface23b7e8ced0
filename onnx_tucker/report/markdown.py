"""The report as a Markdown document."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_tucker.report.schema import Report
from onnx_tucker.report.table import table


def to_markdown(report: Report) -> str:
    """A table and the notes below it."""
    content = table(report)
    lines = [_line(content.headers), _line(["---"] * len(content.headers))]
    lines += [_line(row) for row in content.rows]
    lines.append(_line([f"**{cell}**" if cell else "" for cell in content.totals]))
    return "\n\n".join(["\n".join(lines), *content.notes]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
