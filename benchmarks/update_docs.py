"""Puts freshly measured tables into README.md and docs/thesis.md, between their markers.

    make tables

Reads what `make demo`, `thesis_table.py` and `strokes_accuracy.py` wrote to build/.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = {"README.md": ("report.md", "accuracy.md"), "docs/thesis.md": ("thesis_table.md",)}
BEGIN, END = "<!-- begin measured -->", "<!-- end measured -->"


def main() -> None:
    """Rewrites the documents."""
    for document, tables in TABLES.items():
        path = ROOT / document
        head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, _, tail = rest.partition(END)
        measured = "\n\n".join((ROOT / "build" / table).read_text(encoding="utf-8").strip() for table in tables)
        path.write_text(f"{head}{BEGIN}\n\n{measured}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
