"""Puts freshly measured tables into README.md and docs/, between their markers.

    python benchmarks/update_docs.py DOCUMENT...

Reads what `make demo` and the other files of this folder wrote to build/.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLES = {
    "README.md": ("report.md", "accuracy.md"),
    "docs/thesis.md": ("thesis_table.md",),
    "docs/models.md": ("large_model.md",),
    "docs/speed.md": ("speed.md",),
    "docs/fidelity.md": ("fidelity.md",),
    "docs/auto.md": ("search.md",),
    "docs/finetune.md": ("finetune.md",),
}
BEGIN, END = "<!-- begin measured -->", "<!-- end measured -->"


def main() -> None:
    """Rewrites the documents that are named."""
    for document in sys.argv[1:]:
        tables = TABLES[document]
        path = ROOT / document
        head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        _, _, tail = rest.partition(END)
        measured = "\n\n".join((ROOT / "build" / table).read_text(encoding="utf-8").strip() for table in tables)
        path.write_text(f"{head}{BEGIN}\n\n{measured}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
