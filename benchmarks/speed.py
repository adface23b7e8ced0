"""What a machine does with FLOPs saved: original, textbook chains, lossless lowering, ours, OpenVINO and int8.

    python benchmarks/speed.py [--real FOLDER] [--threads N]... [--ranks ratio:0.5] [--out build/speed.md]
                               [--plot build/speed.svg]

All variants of a model run in turn, in one process, on the same input of one sample; the table shows how much faster
each is than the original in onnxruntime: median of the rounds' ratios, with half the width of its 95 % interval. FOLDER
holds further models, each in a folder of its own: `model.onnx`, and `calib.npz` with inputs. OpenVINO is the yardstick
of what the machine can do (pip install openvino); without it its columns are empty.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

import onnx_tucker
from onnx_tucker.report.numbers import factor, milliseconds
from onnx_tucker.report.schema import Report
from onnx_tucker.runtime.session import Machine, cores, environment
from onnx_tucker.runtime.timing import Timing, interleaved

MODELS = Path(__file__).resolve().parent.parent / "models"
sys.path.insert(0, str(MODELS))

from builders import BUILDERS  # noqa: E402
from clips import CALIBRATION, clips  # noqa: E402

Feed = dict[str, NDArray[Any]]
Run = Callable[[], object]

SECONDS = 10.0
"""Time spent at most on one model's comparison."""
COLUMNS = {
    "textbook": "textbook chain",
    "lowered": "lowered, lossless",
    "ours": "ours",
    "openvino": "OpenVINO, original",
    "openvino_ours": "OpenVINO, ours",
    "int8": "int8",
}
COLOURS = {"textbook": "#b0b0b0", "lowered": "#7fb3d5", "ours": "#1f618d", "openvino": "#e59866", "int8": "#a9dfbf"}


@dataclass(frozen=True)
class Subject:
    """A model, an input of one sample, inputs to calibrate integers with, and ranks for it."""

    name: str
    model: onnx.ModelProto
    feed: Feed
    calibration: list[Feed]
    ranks: str


@dataclass(frozen=True)
class Row:
    """What was measured of a subject; FLOPs are ratios before to after, errors relative L2 of the worst output."""

    name: str
    threads: int
    original_ms: float
    timings: Mapping[str, Timing]
    flops: Mapping[str, float]
    lowered_error: float
    chain_error: float
    slow_nodes: list[str]


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--real", type=Path, help="folder of further models")
    parser.add_argument("--threads", type=int, action="append", help="threads of an operator; repeatable (1 and all)")
    parser.add_argument("--ranks", default="ratio:0.5", help="what textbook chains and ours are made with")
    parser.add_argument("--only", action="append", default=[], help="names of models to measure; all unless given")
    parser.add_argument("--out", type=Path, help="file to write the Markdown to as well")
    parser.add_argument("--plot", type=Path, help="file to write an SVG plot to")
    args = parser.parse_args()
    subjects = [s for s in _subjects(args.real, args.ranks) if not args.only or s.name in args.only]
    rows = []
    for threads in args.threads or sorted({1, cores()}):
        for subject in subjects:
            print(f"{subject.name}, {threads} threads", file=sys.stderr, flush=True)
            rows.append(_measure(subject, threads))
            print(_line(rows[-1]), file=sys.stderr, flush=True)
    text = "\n".join([*_table(rows), "", *_words(rows, args.ranks), "", _machine()])
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")
    if args.plot:
        args.plot.write_text(_plot(rows), encoding="utf-8")
    return 0


def _subjects(real: Path | None, ranks: str) -> list[Subject]:
    strokes, calibration = onnx.load(MODELS / "strokes.onnx"), clips(CALIBRATION, 8)[0]
    feeds = [{"clip": calibration[i : i + 1]} for i in range(len(calibration))]
    found = [
        Subject("strokes, thesis ranks", strokes, feeds[0], feeds, str(MODELS / "thesis_ranks.toml")),
        Subject("strokes", strokes, feeds[0], feeds, ranks),
    ]
    for name, build in BUILDERS.items():
        model = build()
        shape = [1, *[d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]]
        feeds = [{"x": np.random.default_rng(i).standard_normal(shape).astype(np.float32)} for i in range(4)]
        found.append(Subject(name, model, feeds[0], feeds, ranks))
    for path in sorted(real.glob("*/model.onnx")) if real else []:
        with np.load(path.with_name("calib.npz"), allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in file.files}
        count = min(8, *(len(a) for a in arrays.values()))
        feeds = [{name: a[i : i + 1] for name, a in arrays.items()} for i in range(count)]
        found.append(Subject(path.parent.name, onnx.load(path), feeds[0], feeds, ranks))
    return found


def _measure(subject: Subject, threads: int) -> Row:
    options: dict[str, Any] = {"data": subject.feed, "threads": threads}
    lowered = onnx_tucker.compress(subject.model, ranks="full", **options)
    ours = onnx_tucker.compress(subject.model, ranks=subject.ranks, **options)
    textbook = _textbook(subject, options)
    chain = _same_chain(subject, ours.plan, options)
    machine = Machine(threads)
    models = {"original": subject.model, "textbook": textbook.model, "lowered": lowered.model, "ours": ours.model}
    runs: dict[str, Run] = {
        name: _ort(machine, model.SerializeToString(), subject.feed) for name, model in models.items()
    }
    attempts: dict[str, Callable[[], Run]] = {
        "openvino": lambda: _openvino(subject.model, subject.feed, threads),
        "openvino_ours": lambda: _openvino(ours.model, subject.feed, threads),
        "int8": lambda: _int8(machine, subject),
    }
    for name, attempt in attempts.items():
        try:
            runs[name] = attempt()
            runs[name]()
        except Exception as error:  # noqa: BLE001  # whatever it is that it cannot do, the column stays empty
            print(f"  {name}: {str(error).splitlines()[0][:150]}", file=sys.stderr)
            runs.pop(name, None)
    int8 = runs.pop("int8", None)  # may be so slow that it would take all the time
    timings = dict(zip(runs, interleaved(list(runs.values()), SECONDS), strict=True))
    if int8 is not None:
        timings["int8"] = interleaved([runs["original"], int8], SECONDS / 4)[1]
    slow = [
        f"{n.name} ({what})"
        for what, report in (("lowered", lowered.report), ("ours", ours.report))
        for n in report.nodes
        if n.form and n.speedup_ci and n.speedup_ci[1] < 1
    ]
    return Row(
        name=subject.name,
        threads=threads,
        original_ms=timings["original"].ms,
        timings=timings,
        flops={"textbook": _flops(textbook.report), "ours": _flops(ours.report)},
        lowered_error=_error(machine, subject.model, lowered.model, subject.feed),
        chain_error=_error(machine, chain, ours.model, subject.feed),
        slow_nodes=slow,
    )


def _textbook(subject: Subject, options: Mapping[str, Any]) -> onnx_tucker.Result:
    """Every layer as the textbook has it: Tucker-2 of every kernel, SVD of every matrix, in the node's own operator."""
    ranks = subject.ranks
    if not ranks.endswith(".toml"):
        report = onnx_tucker.inspect(subject.model, data=subject.feed, benchmark=False)
        kernels = {n.name: math.prod((n.shape or ())[2:]) > 1 for n in report.nodes if n.status == "kept"}
        rules = {n: {"ranks": ranks, "method": "tucker2" if kernel else "svd"} for n, kernel in kernels.items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ranks.json"
            path.write_text(json.dumps(rules), encoding="utf-8")
            return onnx_tucker.compress(
                subject.model, ranks=str(path), lower=False, keep_slower=True, benchmark=False, **options
            )
    return onnx_tucker.compress(subject.model, ranks=ranks, lower=False, keep_slower=True, benchmark=False, **options)


def _same_chain(subject: Subject, plan: onnx_tucker.Plan, options: Mapping[str, Any]) -> onnx.ModelProto:
    """The plan's factors in the nodes' own operators: what the lowered forms of them have to equal."""
    document = json.loads(plan.to_json())
    for node in document["nodes"]:
        if node["status"] == "lowered":
            node |= {"status": "kept", "form": None}
        elif node["form"]:
            node["form"] = "direct"
    direct = onnx_tucker.Plan.from_json(json.dumps(document))
    return onnx_tucker.compress(subject.model, plan=direct, benchmark=False, **options).model


def _ort(machine: Machine, content: bytes, feed: Feed) -> Run:
    session = machine.session(content)
    return lambda: session.run(None, feed)


def _openvino(model: onnx.ModelProto, feed: Feed, threads: int) -> Run:
    import openvino  # an option

    core = openvino.Core()
    graph = core.read_model(model.SerializeToString())
    graph.reshape({name: openvino.PartialShape(list(array.shape)) for name, array in feed.items()})
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(graph, "CPU", settings).create_infer_request()
    return lambda: request.infer(feed)


def int8_model(model: onnx.ModelProto, calibration: list[Feed], folder: Path) -> onnx.ModelProto:
    """Static quantisation by onnxruntime: QDQ, a scale for each channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> Feed | None:
            return next(self._left, None)

    source, target = folder / "in.onnx", folder / "out.onnx"
    onnx.save(model, source)
    quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
    return onnx.load(target)


def _int8(machine: Machine, subject: Subject) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        model = int8_model(subject.model, subject.calibration, Path(folder))
    return _ort(machine, model.SerializeToString(), subject.feed)


def _error(machine: Machine, a: onnx.ModelProto, b: onnx.ModelProto, feed: Feed) -> float:
    """The largest relative L2 error of an output of `b`."""
    first, second = (machine.session(m.SerializeToString()).run(None, feed) for m in (a, b))
    pairs = zip(first, second, strict=True)
    return max(float(np.linalg.norm(x - y) / np.linalg.norm(x)) if np.any(x) else 0.0 for x, y in pairs)


def _flops(report: Report) -> float:
    before, after = report.totals.flops.before, report.totals.flops.after
    return before / after if before and after else math.nan


def _cell(timing: Timing | None) -> str:
    if timing is None:
        return "–"
    low, high = timing.speedup_ci
    return f"{factor(timing.speedup)} ±{(high - low) / 2:.2f}"


def _line(row: Row) -> str:
    cells = [_cell(row.timings.get(name)) for name in COLUMNS]
    flops = [factor(row.flops[name]) for name in ("textbook", "ours")]
    return f"| {row.name} | {row.threads} | {milliseconds(row.original_ms)} | {' | '.join([*flops, *cells])} |"


def _table(rows: list[Row]) -> list[str]:
    heads = ["model", "threads", "original ms", "FLOPs, textbook", "FLOPs, ours", *COLUMNS.values()]
    return ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *map(_line, rows)]


def _words(rows: list[Row], ranks: str) -> list[str]:
    words = []
    for threads in sorted({row.threads for row in rows}):
        some = [row for row in rows if row.threads == threads]
        counted = [row for row in some if "thesis" not in row.name]
        words.append(f"With {threads} thread{'s' * (threads > 1)}:")
        for row in (r for r in some if "thesis" in r.name):
            ours, textbook = (row.timings[name].speedup for name in ("ours", "textbook"))
            words.append(
                f"- {row.name}: {factor(ours)} where the thesis promised x8.28 by its FLOPs, and "
                f"{factor(ours / textbook)} over the textbook chain; outputs differ from those of the same chain in 3D "
                f"by {row.chain_error:.1g}."
            )
        if counted:
            words += _summary(counted, ranks)
        slow = [f"{row.name}: {node}" for row in some for node in row.slow_nodes]
        models = [f"{r.name} ({n})" for r in some for n in ("lowered", "ours") if r.timings[n].speedup_ci[1] < 1]
        words.append(f"- Slower than the original by more than the interval: {', '.join(slow + models) or 'nothing'}.")
    return words


def _summary(rows: list[Row], ranks: str) -> list[str]:
    ours, textbook = (_geometric([r.timings[n].speedup / r.flops[n] for r in rows]) for n in ("ours", "textbook"))
    lossless = _geometric([r.timings["lowered"].speedup for r in rows])
    worst = min(rows, key=lambda r: r.timings["lowered"].speedup)
    known = [r for r in rows if "openvino" in r.timings]
    faster = sum(r.timings["ours"].ms < r.timings["openvino"].ms for r in known)
    return [
        f"- Speed-up measured over speed-up in FLOPs at `{ranks}`, geometric mean of {len(rows)} models: "
        f"ours {ours:.2f}, textbook {textbook:.2f}.",
        f"- Lossless lowering, geometric mean: {factor(lossless)}; least {factor(worst.timings['lowered'].speedup)} "
        f"({worst.name}); largest relative error of an output {max(r.lowered_error for r in rows):.1g}.",
        f"- Ours in onnxruntime is faster than OpenVINO on the original for {faster} of {len(known)}.",
    ]


def _geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _machine() -> str:

    env = environment(Machine())
    versions = f"onnxruntime {env['onnxruntime']}, onnx {env['onnx']}, numpy {env['numpy']}, Python {env['python']}"
    try:
        import openvino

        versions += f", OpenVINO {openvino.__version__.partition('-')[0]}"
    except ImportError:
        pass
    return f"{env['cpu']}, {env['cores']} cores, {env['platform']}; {versions}."


def _plot(rows: list[Row]) -> str:
    """Bars of speed-up for the largest number of threads, a group for each model."""
    rows = [row for row in rows if row.threads == max(r.threads for r in rows)]
    bar, gap, left, width = 11, 14, 150, 640
    top = 34
    group = bar * len(COLOURS) + gap
    largest = max(t.speedup for row in rows for name, t in row.timings.items() if name in COLOURS)
    scale = (width - left - 60) / largest
    height = top + group * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, (name, colour) in enumerate(COLOURS.items()):
        x = left + i * 98
        parts.append(f'<rect x="{x}" y="8" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="17">{COLUMNS[name].partition(",")[0]}</text>')
    for i, row in enumerate(rows):
        y = top + i * group
        parts.append(f'<text x="{left - 8}" y="{y + bar * len(COLOURS) / 2 + 4}" text-anchor="end">{row.name}</text>')
        for j, (name, colour) in enumerate(COLOURS.items()):
            timing = row.timings.get(name)
            if timing:
                at, length = y + j * bar, timing.speedup * scale
                parts.append(f'<rect x="{left}" y="{at}" width="{length:.1f}" height="{bar - 1}" fill="{colour}"/>')
                parts.append(
                    f'<text x="{left + length + 4:.1f}" y="{at + 9}" font-size="9">{factor(timing.speedup)}</text>'
                )
    one = left + scale
    parts.append(
        f'<line x1="{one:.1f}" y1="{top - 4}" x2="{one:.1f}" y2="{height}" stroke="black" stroke-dasharray="3"/>'
    )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    raise SystemExit(main())
