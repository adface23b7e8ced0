"""What `--ranks auto` finds: within budgets, beside uniform policies; and as fast as a score allows, beside int8.

    python benchmarks/search.py [--real FOLDER] [--only NAME]... [--part budgets|policies|score]...
                                [--budget time:0.5]... [--threads N] [--rows build/search.json] [--out build/search.md]

- *budgets*: score and measured time at half and a quarter of the FLOPs and at half of the time, and how long each
  search took, its measurements of time among it.
- *policies*: the best score that `energy:E`, `ratio:R` or `vbmf:W` reach within the same budgets with the same data.
  Each has ten values. Of FLOPs, the two that come closest to the budget from below are made and scored; of time, those
  that halving in on it passes by, as more FLOPs take more time.
- *score*: the fastest model whose score falls by at most 0.01 on every second labelled sample, its fall on the others,
  and its time in turn with the original's and with static int8 (QDQ, a scale for each channel, the same inputs) of the
  original and of the result.

FOLDER holds models, each in a folder of its own: `model.onnx`, `calib.npz`, `test.npz`, and beside the folders
`score.py` with `TASKS`, in which the name of each has its metric of (outputs, test arrays), samples to a batch, and
what turns test arrays into inputs, or None. Rows are added to those in a file, if one is given, so that models can be
measured one by one.
"""

from __future__ import annotations

import argparse
import bisect
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from speed import int8_model

import onnx_tucker
from onnx_tucker.errors import PromiseError
from onnx_tucker.report.numbers import factor
from onnx_tucker.runtime.session import Machine, environment
from onnx_tucker.runtime.timing import interleaved

MODELS = Path(__file__).resolve().parent.parent / "models"
sys.path.insert(0, str(MODELS))

from clips import CALIBRATION, TEST, clips  # noqa: E402

Score = Callable[[Callable[[Mapping[str, Any]], Mapping[str, Any]], slice], float]

BUDGETS = ("flops:0.5", "flops:0.25", "time:0.5")
POLICIES = {
    "energy": (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99),
    "ratio": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.75),
    "vbmf": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
}
NEAREST = 2
DROP = 0.01
BATCH, SECONDS = 10, 10.0
ALL, SHOWN, HIDDEN = slice(None), slice(0, None, 2), slice(1, None, 2)


@dataclass(frozen=True)
class Subject:
    """A model, inputs to calibrate it with, and its score on some of the labelled samples."""

    name: str
    path: Path
    data: Mapping[str, NDArray[Any]]
    score: Score
    samples: int


@dataclass
class Row:
    """What was measured of a model: score of the original, and by part what was found."""

    name: str
    threads: int
    original: float
    budgets: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, dict[str, Any]] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder of models besides strokes")
    parser.add_argument("--only", action="append", default=[], help="names of models to measure; all unless given")
    parser.add_argument("--part", action="append", default=[], choices=list(PARTS), help="all unless given")
    parser.add_argument("--budget", action="append", help="repeatable; all three unless given")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="JSON file that rows are kept in; those measured anew are replaced")
    parser.add_argument("--out", type=Path, help="file to write the Markdown to as well")
    args = parser.parse_args()
    rows = {}
    if args.rows and args.rows.exists():
        rows = {row["name"]: Row(**row) for row in json.loads(args.rows.read_text(encoding="utf-8"))}
    for subject in subjects(args.real, args.only):
        fresh = Row(subject.name, args.threads, subject.score(runner(onnx.load(subject.path), args.threads), ALL))
        row = rows.setdefault(subject.name, fresh)
        for part in args.part or PARTS:
            setattr(row, part, PARTS[part](subject, args.budget or BUDGETS, args.threads))
            print(subject.name, part, json.dumps(getattr(row, part)), file=sys.stderr, flush=True)
            write(args.rows, json.dumps([asdict(r) for r in rows.values()], indent=1))
    text = "\n".join([*_tables(list(rows.values())), "", machine(args.threads), ""])
    print(text)
    write(args.out, text)


def write(path: Path | None, text: str) -> None:
    """Writes a file, if one is named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def subjects(real: Path | None, only: Sequence[str], fitted: int = 64, scored: int = 200) -> list[Subject]:
    """The models to measure: strokes, with clips to calibrate it with and to score it on, and those in a folder."""
    found = []
    if not only or "strokes" in only:
        data = {"clip": clips(CALIBRATION, fitted)[0]}
        found.append(Subject("strokes", MODELS / "strokes.onnx", data, partial(_strokes_score, scored), scored))
    for path in sorted(real.glob("*/model.onnx")) if real else []:
        name = path.parent.name
        if only and name not in only:
            continue
        with np.load(path.with_name("calib.npz"), allow_pickle=False) as file:
            data = {key: file[key].astype(np.float32) for key in file.files}
        with np.load(path.with_name("test.npz"), allow_pickle=False) as file:
            test = {key: file[key] for key in file.files}
        metric, batch, prepare = _tasks(path.parents[1] / "score.py")[name]
        x = prepare(test) if prepare else test["x"].astype(np.float32)
        found.append(Subject(name, path, data, partial(_task_score, metric, batch, x, test), len(x)))
    return found


def _tasks(script: Path) -> Mapping[str, Any]:
    spec = importlib.util.spec_from_file_location("score", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.TASKS)


def _task_score(metric: Any, batch: int, x: NDArray[Any], test: Mapping[str, Any], run: Any, part: slice) -> float:
    if len(x) == 1:
        part = ALL
    some = {key: array[part] if len(array) == len(x) else array for key, array in test.items()}
    inputs = x[part]
    outputs = [next(iter(run({"x": inputs[i : i + batch]}).values())) for i in range(0, len(inputs), batch)]
    return float(metric(np.concatenate(outputs), some))


def _strokes_score(count: int, run: Any, part: slice) -> float:
    right: list[bool] = []
    for start in range(0, count, BATCH):
        pixels, labels = clips(TEST, BATCH, start)
        outputs = [next(iter(run({"clip": pixels[i : i + 1]}).values())) for i in range(*part.indices(BATCH))]
        right += list(np.concatenate(outputs).argmax(axis=1) == labels[part])
    return float(np.mean(right))


def runner(model: onnx.ModelProto, threads: int) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    """Runs a model: arrays by input name to arrays by output name."""
    session = Machine(threads).session(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, dict(feed)), strict=True))


def options_of(subject: Subject, threads: int) -> dict[str, Any]:
    """Of every run: the data, the threads, and a batch of one sample."""
    shapes = {name: (1, *array.shape[1:]) for name, array in subject.data.items()}
    return {"data": subject.data, "threads": threads, "input_shape": shapes}


def _found(subject: Subject, result: onnx_tucker.Result, threads: int) -> dict[str, Any]:
    totals = result.report.totals
    return {
        "score": subject.score(runner(result.model, threads), ALL),
        "flops": (totals.flops.after or 0) / (totals.flops.before or 1),
        "speedup": totals.speedup,
        "speedup_ci": totals.speedup_ci,
    }


def _budgets(subject: Subject, budgets: Sequence[str], threads: int) -> dict[str, dict[str, Any]]:
    found = {}
    for budget in budgets:
        try:
            began = time.perf_counter()
            result = onnx_tucker.compress(subject.path, ranks="auto", budget=budget, **options_of(subject, threads))
            seconds = time.perf_counter() - began
            found[budget] = {**_found(subject, result, threads), "seconds": seconds}
        except PromiseError as error:
            found[budget] = {"broken": str(error)}
    return found


def _policies(subject: Subject, budgets: Sequence[str], threads: int) -> dict[str, dict[str, Any]]:
    """Of each budget the best of the policies within it; for time, of those whose forms were chosen by time."""
    with tempfile.TemporaryDirectory() as cache:
        options = {**options_of(subject, threads), "cache": cache}
        made: dict[tuple[str, bool], dict[str, Any]] = {}

        def found(ranks: str, timed: bool) -> dict[str, Any]:
            if (ranks, timed) not in made:
                result = onnx_tucker.compress(subject.path, ranks=ranks, keep_slower=True, benchmark=timed, **options)
                made[ranks, timed] = _found(subject, result, threads)
            return made[ranks, timed]

        counted = {name: _by_flops(subject, name, options) for name in POLICIES}
        for budget in budgets:
            quantity, _, most = budget.partition(":")
            for ordered in counted.values():
                if quantity == "flops":
                    for ranks in [ranks for ranks, flops in ordered.items() if flops <= float(most)][:NEAREST]:
                        found(ranks, timed=False)
                else:  # more FLOPs take more time
                    limit = float(most)
                    bisect.bisect_left(
                        list(ordered), -limit, key=lambda ranks: -1 / found(ranks, timed=True)["speedup"]
                    )
        best = {}
        for budget in budgets:
            quantity, _, most = budget.partition(":")
            shares = {
                key: one["flops"] if quantity == "flops" else 1 / one["speedup"]
                for key, one in made.items()
                if quantity == "flops" or one["speedup"]
            }
            inside = [key for key, share in shares.items() if share <= float(most)]
            if inside:
                first = max(inside, key=lambda key: made[key]["score"])
                best[budget] = {"ranks": first[0], **made[first]}
        return best


def _by_flops(subject: Subject, name: str, options: Mapping[str, Any]) -> dict[str, float]:
    """The values of a policy with the shares of FLOPs that they leave, most first."""
    shares = {}
    for value in POLICIES[name]:
        planned = {**options, "benchmark": False, "dry_run": True}
        totals = onnx_tucker.compress(subject.path, ranks=f"{name}:{value:g}", **planned).report.totals
        shares[f"{name}:{value:g}"] = (totals.flops.after or 0) / (totals.flops.before or 1)
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def _score(subject: Subject, _: Sequence[str], threads: int) -> dict[str, Any]:
    options = options_of(subject, threads)
    original = onnx.load(subject.path)
    result = onnx_tucker.compress(
        subject.path, ranks="auto", eval=lambda run: subject.score(run, SHOWN), max_drop=DROP, **options
    )
    scores = {
        part: [subject.score(runner(model, threads), which) for model in (original, result.model)]
        for part, which in (("shown", SHOWN), ("hidden", HIDDEN))
    }
    feed = {name: array[:1] for name, array in subject.data.items()}
    calibration = [{name: array[i : i + 1] for name, array in subject.data.items()} for i in range(32)]
    count = min(len(array) for array in subject.data.values())
    models = {"original": original, "ours": result.model}
    for name in ("original", "ours"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                models[f"int8 of {name}"] = int8_model(models[name], calibration[:count], Path(folder))
            except Exception as error:  # noqa: BLE001  # whatever it is that it cannot do
                print(f"  int8 of {name}: {str(error).splitlines()[0][:150]}", file=sys.stderr)
    sessions = [Machine(threads).session(model.SerializeToString()) for model in models.values()]
    runs = [partial(session.run, None, feed) for session in sessions]
    timings = dict(zip(models, interleaved(runs, SECONDS, clock=Machine(threads).clock), strict=True))
    totals = result.report.totals
    return {
        **scores,
        "speedups": {name: [t.speedup, *t.speedup_ci] for name, t in timings.items()},
        "int8": subject.score(runner(models["int8 of original"], threads), ALL)
        if "int8 of original" in models
        else None,
        "int8_ours": subject.score(runner(models["int8 of ours"], threads), ALL) if "int8 of ours" in models else None,
        "flops": (totals.flops.after or 0) / (totals.flops.before or 1),
    }


PARTS: dict[str, Callable[[Subject, Sequence[str], int], dict[str, Any]]] = {
    "budgets": _budgets,
    "policies": _policies,
    "score": _score,
}


def _tables(rows: Sequence[Row]) -> list[str]:
    lines = ["| model | original | budget | score | FLOPs | time | search s | best uniform policy | its score |"]
    lines.append("|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        for budget, found in row.budgets.items():
            rival = row.policies.get(budget)
            best = (
                f"{rival['ranks']} | {rival['score']:.4f}" if rival else "none within it | –" if row.policies else " | "
            )
            known = f"| {row.name} | {row.original:.4f} | {budget} |"
            if "broken" in found:
                lines.append(f"{known} {found['broken']} | | | | {best} |")
            else:
                speed = factor(found["speedup"]) if found["speedup"] else "–"
                seconds = f"{found['seconds']:.0f}" if "seconds" in found else "–"
                lines.append(f"{known} {found['score']:.4f} | {found['flops']:.3f} | {speed} | {seconds} | {best} |")
    lines += [
        "",
        "| model | FLOPs | fall shown | fall hidden | ours | int8 of original | int8 of ours "
        "| score of the former int8 | of the latter |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row.score):
        falls = [before - after for before, after in (row.score["shown"], row.score["hidden"])]
        speeds = [row.score["speedups"].get(name) for name in ("ours", "int8 of original", "int8 of ours")]
        cells = [f"{factor(s[0])} ({s[1]:.2f} to {s[2]:.2f})" if s else "–" for s in speeds]
        scores = [row.score.get(name) for name in ("int8", "int8_ours")]
        cells += ["–" if score is None else f"{score:.4f}" for score in scores]
        lines.append(
            f"| {row.name} | {row.score['flops']:.3f} | {falls[0]:.4f} | {falls[1]:.4f} | {' | '.join(cells)} |"
        )
    return lines


def machine(threads: int) -> str:
    """What the numbers depend on, in a line."""
    env = environment(Machine(threads))
    versions = f"onnxruntime {env['onnxruntime']}, onnx {env['onnx']}, numpy {env['numpy']}, Python {env['python']}"
    return f"{env['cpu']}, {env['cores']} cores, threads {env['threads']}, {env['platform']}; {versions}."


if __name__ == "__main__":
    main()
