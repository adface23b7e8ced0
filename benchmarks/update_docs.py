"""Puts freshly measured tables into README.md and docs/thesis.md, between their markers.

    make tables

Reads build/report.md (`make demo`) and build/thesis_table.md (`benchmarks/thesis_table.py`).
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = {"README.md": "build/report.md", "docs/thesis.md": "build/thesis_table.md"}
BEGIN, END = "<!-- begin measured -->", "<!-- end measured -->"


def main() -> None:
    """Rewrites the documents."""
    for document, table in TABLES.items():
        path = ROOT / document
        head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, _, tail = rest.partition(END)
        measured = (ROOT / table).read_text(encoding="utf-8").strip()
        path.write_text(f"{head}{BEGIN}\n\n{measured}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
