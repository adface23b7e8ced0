"""The report as one HTML page without any outside resource."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from onnx_tucker.report.schema import Report
from onnx_tucker.report.table import table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }
table { border-collapse: collapse; }
th, td { padding: .25rem .6rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap; }
td:last-child { white-space: normal; }
.factorized, .lowered { background: #eaf7ea; }
.skipped { color: #777; }
tfoot { font-weight: bold; }
"""


def to_html(report: Report) -> str:
    """A page with the table and its notes."""
    content = table(report)
    rows = [_row(row, "td", node.status) for node, row in zip(report.nodes, content.rows, strict=True)]
    notes = "".join(f"<p>{escape(note)}</p>\n" for note in content.notes)
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>onnx-tucker report</title>\n'
        f"<style>{_STYLE}</style>\n<table>\n<thead>{_row(content.headers, 'th')}</thead>\n"
        f"<tbody>\n{''.join(rows)}</tbody>\n<tfoot>{_row(content.totals, 'td')}</tfoot>\n</table>\n{notes}</html>\n"
    )


def _row(cells: Sequence[str], tag: str, style: str = "") -> str:
    return f'<tr class="{escape(style)}">' + "".join(f"<{tag}>{escape(c)}</{tag}>" for c in cells) + "</tr>\n"
