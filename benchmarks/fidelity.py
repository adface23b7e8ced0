"""What accuracy is left of FLOPs saved without training: textbook Tucker, whitened channels, and ours.

    python benchmarks/fidelity.py [--real FOLDER] [--only NAME]... [--share 0.5]... [--seed 0]...
                                  [--rows build/fidelity.json] [--out build/fidelity.md] [--plot build/fidelity.svg]

Every variant of a model has at most the given share of its FLOPs. The textbook has Tucker-2 of every kernel and SVD of
every matrix, by the weights alone, all at the same share of their ranks; the second has the same ranks, and
weights whose input channels are whitened first by their second moment on the calibration inputs, each layer by itself;
ours is `--ranks auto --budget flops:S` with the same inputs. FOLDER holds further models, each in a folder of its own:
`model.onnx` and `calib.npz`, and beside them `score.py`, which `python score.py NAME MODEL` prints a score as JSON.
Of several seeds, 0 to 2 unless others are named, the worst score counts.
Rows are added to those in a file, if one is given, so that models can be measured one at a time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnx_tucker
from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.metric import Root
from onnx_tucker.fitting import calibrate
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.piece import store
from onnx_tucker.graph.splice import splice
from onnx_tucker.prepare import prepare
from onnx_tucker.runtime.session import Machine, environment
from onnx_tucker.settings import Settings
from onnx_tucker.types import Array, Candidate, Chain, Choice, Plan

MODELS = Path(__file__).resolve().parent.parent / "models"
sys.path.insert(0, str(MODELS))

from clips import CALIBRATION, TEST, clips  # noqa: E402

SHARES, SEEDS = (0.5, 0.25), (0, 1, 2)
CLIPS, BATCH = 200, 20
WIDE = 8192
"""Input channels from which on they are not whitened: their second moment takes gigabytes."""
VARIANTS = {"textbook": "#b0b0b0", "whitened": "#e59866", "ours": "#1f618d"}


@dataclass(frozen=True)
class Subject:
    """A model, inputs to calibrate it with, options that say its shapes, and its score."""

    name: str
    path: Path
    data: Mapping[str, Any]
    options: Mapping[str, Any]
    score: Callable[[Path], float]


@dataclass(frozen=True)
class Row:
    """Score and share of the FLOPs of each variant at one share asked for, the worst and the largest of all seeds."""

    name: str
    share: float
    original: float
    scores: Mapping[str, float]
    shares: Mapping[str, float]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder of further models")
    parser.add_argument("--only", action="append", default=[], help="names of models to measure; all unless given")
    parser.add_argument("--share", type=float, action="append", help="share of the FLOPs; repeatable")
    parser.add_argument("--seed", type=int, action="append", help="repeatable; the worst score counts")
    parser.add_argument("--rows", type=Path, help="JSON file that rows are kept in; those measured anew are replaced")
    parser.add_argument("--out", type=Path, help="file to write the Markdown to as well")
    parser.add_argument("--plot", type=Path, help="file to write an SVG plot to")
    args = parser.parse_args()
    rows, seeds = [], args.seed or list(SEEDS)
    for subject in _subjects(args.real):
        if args.only and subject.name not in args.only:
            continue
        original = subject.score(subject.path)
        for share in args.share or SHARES:
            rows.append(_measure(subject, share, seeds, original))
            print(_line(rows[-1]), file=sys.stderr, flush=True)
            if args.rows:
                rows = _kept(args.rows, rows)
    text = "\n".join([*_table(rows), "", _machine(seeds)])
    print(text)
    for path, content in ((args.out, text + "\n"), (args.plot, _plot(rows))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")


def _kept(path: Path, rows: list[Row]) -> list[Row]:
    """These rows and those in a file of others, which is written anew."""
    known = [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
    every = {(row.name, row.share): row for row in (*known, *rows)}
    found = [every[key] for key in sorted(every, key=lambda key: (key[0], -key[1]))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in found], indent=1), encoding="utf-8")
    return found


def _subjects(real: Path | None) -> list[Subject]:
    found = [Subject("strokes", MODELS / "strokes.onnx", {"clip": clips(CALIBRATION, 64)[0]}, {}, _strokes_score)]
    for path in sorted(real.glob("*/model.onnx")) if real else []:
        with np.load(path.with_name("calib.npz"), allow_pickle=False) as file:
            data = {name: file[name].astype(np.float32) for name in file.files}
        shapes = {name: (1, *array.shape[1:]) for name, array in data.items()}
        name = path.parent.name
        found.append(Subject(name, path, data, {"input_shape": shapes}, _scorer(path.parents[1] / "score.py", name)))
    return found


def _strokes_score(path: Path) -> float:
    session, right = ort.InferenceSession(path, providers=["CPUExecutionProvider"]), 0
    for start in range(0, CLIPS, BATCH):
        pixels, labels = clips(TEST, BATCH, start)
        right += int(np.sum(session.run(None, {"clip": pixels})[0].argmax(axis=1) == labels))
    return right / CLIPS


def _scorer(script: Path, name: str) -> Callable[[Path], float]:
    def score(path: Path) -> float:
        run = subprocess.run([sys.executable, script, name, path], capture_output=True, text=True, check=True)
        return float(json.loads(run.stdout)["score"])

    return score


def _measure(subject: Subject, share: float, seeds: Sequence[int], original: float) -> Row:
    options = {**subject.options, "benchmark": False}
    plan = _uniform(subject, share, options)
    textbook = onnx_tucker.compress(subject.path, plan=plan, **options)
    chosen: dict[str, Any] = {"ranks": "auto", "budget": f"flops:{share}", "data": subject.data}
    ours = [onnx_tucker.compress(subject.path, **chosen, **options, seed=seed) for seed in seeds]
    models = {
        "textbook": [textbook.model],
        "whitened": [_whitened(subject, plan, {**options, "seed": seed}) for seed in seeds],
        "ours": [result.model for result in ours],
    }
    shares = {"textbook": _share(textbook), "whitened": _share(textbook), "ours": max(map(_share, ours))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"

        def score(model: onnx.ModelProto) -> float:
            onnx.save(model, path)
            return subject.score(path)

        return Row(
            subject.name, share, original, {name: min(map(score, made)) for name, made in models.items()}, shares
        )


def _share(result: onnx_tucker.Result) -> float:
    flops = result.report.totals.flops
    return (flops.after or 0) / (flops.before or 1)


def _uniform(subject: Subject, share: float, options: Mapping[str, Any]) -> Plan:
    """The plan with the largest share of all ranks whose FLOPs are within a share; a chain that saves none is none."""
    full = onnx_tucker.compress(subject.path, ranks="full", lower=False, dry_run=True, **options).plan
    low, high, best = 0.0, 1.0, full
    for _ in range(10):
        middle = (low + high) / 2
        plan = Plan(tuple(_choice(choice, middle) for choice in full.choices))
        result = onnx_tucker.compress(subject.path, plan=plan, dry_run=True, **options)
        low, high, best = (middle, high, plan) if _share(result) <= share else (low, middle, best)
    return best


def _choice(choice: Choice, ratio: float) -> Choice:
    """A node's textbook chain at a share of its ranks."""
    if choice.shape is None or choice.status != "kept":
        return choice
    out, inp, *kernel = choice.shape
    volume = int(np.prod(kernel))
    sizes = (inp, out) if volume > 1 else (min(inp, out),)
    ranks = tuple(max(1, round(ratio * size)) for size in sizes)
    params = inp * ranks[0] + ranks[0] * ranks[-1] * volume + ranks[-1] * out if volume > 1 else ranks[0] * (inp + out)
    if params >= out * inp * volume:
        return choice
    method = "tucker2" if volume > 1 else "svd"
    return Choice(choice.name, choice.op, choice.shape, "factorized", "", method, "direct", ranks)


def _whitened(subject: Subject, plan: Plan, options: Mapping[str, Any]) -> onnx.ModelProto:
    """The same ranks, each weight truncated as inputs with whitened channels feel it; as whole weights again."""
    job = prepare(subject.path, Settings(data=subject.data, **options), lambda *_: None)
    choices = {choice.name: choice for choice in plan.choices if choice.method}
    found = [f for f in job.found if f.is_site and f.label in choices]
    planned, weights, names = {}, {}, Names(job.model)
    for one, goals in zip(found, calibrate.goals(job, found), strict=True):
        stage, weight = one.site.stage, one.site.read().astype(np.float64)
        choice = choices[one.label]
        parts = []
        for part, goal in zip(np.split(weight, stage.groups), goals.whole if goals else [], strict=True):
            wide = stage.inp >= WIDE
            half, inverse = (None, None) if wide else goal.metric.roots(stage.inp)
            chain = METHODS[choice.method or ""].chain(_turned(part, half), stage, choice.ranks or ())
            parts.append(_turned(reconstruct(chain), inverse))
        planned[one.label] = Candidate(None, None, (stage,), 0.0)
        chain = Chain((stage,), (np.concatenate(parts),))
        weights[one.label] = store(one, planned[one.label], chain, names)
    return splice(job.model, planned, weights, job.found, job.context)


def _turned(weight: Array, by: Root | None) -> Array:
    """A weight whose input channels are mixed, if by anything."""
    return weight if by is None else by.times(weight, 1)


def _line(row: Row) -> str:
    scores = " | ".join(f"{row.scores[name]:.3f}" for name in VARIANTS)
    shares = " | ".join(f"{row.shares[name]:.3f}" for name in ("textbook", "ours"))
    return f"| {row.name} | {row.original:.3f} | {row.share:g} | {scores} | {shares} |"


def _table(rows: list[Row]) -> list[str]:
    head = f"| model | original | share asked | {' | '.join(VARIANTS)} | FLOPs textbook | FLOPs ours |"
    return [head, "|---|---|---|---|---|---|---|---|", *map(_line, rows)]


def _machine(seeds: Sequence[int]) -> str:
    known = environment(Machine())
    versions = ", ".join(f"{name} {known[name]}" for name in ("onnxruntime", "onnx", "numpy") if name in known)
    which = f"Seed {seeds[0]}" if len(seeds) == 1 else f"Worst of seeds {', '.join(map(str, seeds))}"
    return f"{which}; {known.get('cpu', 'unknown processor')}, {versions}."


def _plot(rows: list[Row]) -> str:
    """Score over the share of FLOPs, a panel for each model."""
    names = list(dict.fromkeys(row.name for row in rows))
    wide, high, margin, columns = 200, 150, 34, 3
    width = columns * (wide + margin) + margin
    height = -(-len(names) // columns) * (high + 2 * margin) + margin
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        'font-size="10">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, (name, colour) in enumerate(VARIANTS.items()):
        parts.append(f'<rect x="{margin + i * 90}" y="8" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{margin + i * 90 + 14}" y="17">{name}</text>')
    for i, model in enumerate(names):
        mine = sorted((row for row in rows if row.name == model), key=lambda row: row.share)
        left = margin + i % columns * (wide + margin)
        top = 2 * margin + i // columns * (high + 2 * margin)
        parts.append(f'<text x="{left}" y="{top - 6}">{model}, original {mine[0].original:.3f}</text>')
        parts.append(f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#ccc"/>')
        most = max([mine[0].original, *(score for row in mine for score in row.scores.values())])
        for variant, colour in VARIANTS.items():
            dots = [(row.shares[variant], row.scores[variant]) for row in mine] + [(1.0, mine[0].original)]
            at = [f"{left + wide * x:.1f},{top + high * (1 - 0.95 * max(y, 0) / most):.1f}" for x, y in dots]
            parts.append(f'<polyline points="{" ".join(at)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x in (0.25, 0.5, 0.75, 1.0):
            parts.append(f'<text x="{left + wide * x - 8:.1f}" y="{top + high + 12}">{x:g}</text>')
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    main()
