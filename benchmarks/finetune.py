"""Scores before and after fine-tuning, on calibration inputs without labels.

    python benchmarks/finetune.py [--real FOLDER] [--only NAME]... [--ranks flops:0.25|flops:0.5|thesis]...
                                  [--epochs N] [--learning-rate L] [--clips 64] [--fitted 64] [--scored 1000]
                                  [--threads N] [--cache DIR]
                                  [--rows build/finetune.json] [--out build/finetune.md]

Each model of search.py's FOLDER at half and at a quarter of its FLOPs, as `--ranks auto` makes it, and the thesis
network at the thesis's ranks; both then trained on the same inputs by `onnx_tucker.finetune`. Of the thesis network's
clips, factors are only fitted to the first ones, as many as `--fitted`.
Needs the `finetune` extra. Rows are added to those in a file, if one is given.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from search import ALL, MODELS, Subject, machine, options_of, runner, subjects, write

import onnx_tucker
from onnx_tucker.course import Course
from onnx_tucker.errors import TuckerError

THESIS = "thesis"
RANKS = ("flops:0.25", "flops:0.5", THESIS)


@dataclass(frozen=True)
class Row:
    """A model at some ranks: scores of the original, before and after, errors of the outputs, and seconds."""

    name: str
    ranks: str
    original: float
    before: float
    after: float
    error_before: float
    error_after: float
    seconds: float
    samples: int
    threads: int
    epochs: int


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder of models besides strokes")
    parser.add_argument("--only", action="append", default=[], help="names of models to measure; all unless given")
    parser.add_argument("--ranks", action="append", choices=RANKS, help="repeatable; all unless given")
    parser.add_argument("--epochs", type=int, default=Course.epochs)
    parser.add_argument("--learning-rate", type=float, default=Course.learning_rate)
    parser.add_argument("--clips", type=int, default=64, help="inputs of strokes")
    parser.add_argument("--fitted", type=int, default=64, help="those of them that factors are fitted to")
    parser.add_argument("--scored", type=int, default=1000, help="clips that strokes is scored on")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--cache", help="folder that remembers what the factorised models took to find")
    parser.add_argument("--rows", type=Path, help="JSON file that rows are kept in; those measured anew are replaced")
    parser.add_argument("--out", type=Path, help="file to write the Markdown to as well")
    args = parser.parse_args()
    rows = {}
    if args.rows and args.rows.exists():
        rows = {(row["name"], row["ranks"]): Row(**row) for row in json.loads(args.rows.read_text(encoding="utf-8"))}
    for subject in subjects(args.real, args.only, args.clips, args.scored):
        for ranks in args.ranks or RANKS:
            if (subject.name == "strokes") != (ranks == THESIS):
                continue
            try:
                rows[subject.name, ranks] = row = _row(subject, ranks, args)
            except TuckerError as error:
                print(f"{subject.name} {ranks}: {error}", file=sys.stderr)
                continue
            print(json.dumps(asdict(row)), file=sys.stderr, flush=True)
            write(args.rows, json.dumps([asdict(r) for r in rows.values()], indent=1))
    text = "\n".join([*_table(list(rows.values())), "", machine(args.threads), ""])
    print(text)
    write(args.out, text)


def _row(subject: Subject, ranks: str, args: argparse.Namespace) -> Row:
    options = options_of(subject, args.threads)
    chosen: dict[str, Any] = {"ranks": "auto", "budget": ranks}
    fitted = subject.data
    if ranks == THESIS:
        chosen = {"ranks": str(MODELS / "thesis_ranks.toml")}
        fitted = {name: clips[: args.fitted] for name, clips in subject.data.items()}
    before = onnx_tucker.compress(subject.path, **chosen, **{**options, "data": fitted}, cache=args.cache)
    course = {"epochs": args.epochs, "learning_rate": args.learning_rate}
    began = time.monotonic()
    after = onnx_tucker.finetune(subject.path, before.model, benchmark=False, **course, **options)
    seconds = time.monotonic() - began
    models = onnx.load(subject.path), before.model, after.model
    original, untuned, tuned = (subject.score(runner(model, args.threads), ALL) for model in models)
    errors = _error(before), _error(after)
    samples = len(next(iter(subject.data.values())))
    return Row(subject.name, ranks, original, untuned, tuned, *errors, seconds, samples, args.threads, args.epochs)


def _error(result: onnx_tucker.Result) -> float:
    assert result.report.fidelity is not None
    return max(output.relative_l2 or 0.0 for output in result.report.fidelity.outputs)


def _table(rows: list[Row]) -> list[str]:
    lines = ["| model | at | samples | epochs | threads | original | before | after | error before | after | seconds |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        scores = f"{row.original:.4f} | {row.before:.4f} | {row.after:.4f}"
        errors = f"{row.error_before:.3f} | {row.error_after:.3f}"
        at = "the thesis's ranks" if row.ranks == THESIS else row.ranks
        how = f"{row.samples} | {row.epochs} | {row.threads or 'all'}"
        lines.append(f"| {row.name} | {at} | {how} | {scores} | {errors} | {row.seconds:.0f} |")
    return lines


if __name__ == "__main__":
    main()
