"""The report as a Markdown document."""

from __future__ import annotations

from onnx_tucker.report.schema import Report
from onnx_tucker.report.table import HEADERS, table


def to_markdown(report: Report) -> str:
    """A table and the notes below it."""
    content = table(report)
    lines = [_line(HEADERS), _line(["---"] * len(HEADERS))]
    lines += [_line(row) for row in content.rows]
    lines += [_line([f"**{cell}**" if cell else "" for cell in content.totals]), ""]
    return "\n".join(lines + [f"{note}\n" for note in content.notes])


def _line(cells: object) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|").replace("\n", " ") for c in cells) + " |"  # type: ignore[attr-defined]
