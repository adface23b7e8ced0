"""The report as JSON under the schema onnx-tucker/report/1."""

from __future__ import annotations

import json

from onnx_tucker.report.schema import Report


def to_json(report: Report) -> str:
    """The whole report."""
    return json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
