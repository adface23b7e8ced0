"""The nodes of the report as CSV: one row each, a column for every number, empty where it is not known."""

from __future__ import annotations

import csv
import io
from typing import Any

from onnx_tucker.report.schema import Report


def to_csv(report: Report) -> str:
    """A header and a row for each node."""
    rows = [_flat(node) for node in report.to_dict()["nodes"]]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0] if rows else ["name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _flat(node: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            row |= {f"{key}_{side}": number for side, number in value.items()}
        elif key == "speedup_ci":
            row |= {f"{key}_low": value[0] if value else None, f"{key}_high": value[1] if value else None}
        else:
            row[key] = "x".join(map(str, value)) if isinstance(value, list) else value
    return row
