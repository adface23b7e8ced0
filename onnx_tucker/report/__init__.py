"""The report and its formats: a new one is one file, one entry in `FORMATS`, and one test file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from onnx_tucker.errors import UsageError
from onnx_tucker.report.csv import to_csv
from onnx_tucker.report.html import to_html
from onnx_tucker.report.json import to_json
from onnx_tucker.report.markdown import to_markdown
from onnx_tucker.report.schema import Report

T = TypeVar("T")

FORMATS: dict[str, Callable[[Report], str]] = {
    ".json": to_json,
    ".md": to_markdown,
    ".html": to_html,
    ".csv": to_csv,
}


def writer(path: Path, formats: Mapping[str, Callable[[T], str]]) -> Callable[[T], str]:
    """The one of some formats that a file's ending asks for.

    Raises:
        UsageError: there is none.
    """
    if path.suffix not in formats:
        raise UsageError(f"--report {path}: the ending is one of {', '.join(formats)}.")
    return formats[path.suffix]


def render(report: Report, path: Path) -> str:
    """The report in the format that a file's ending asks for."""
    return writer(path, FORMATS)(report)
