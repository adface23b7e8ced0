"""Accuracy of the thesis network, as trained and compressed, on held-out clips.

    python benchmarks/strokes_accuracy.py [--clips 200] [--out build/accuracy.md]

Compares models/strokes.onnx with build/strokes.onnx (`make demo`) and with the thesis's ranks. No retraining.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

import onnx_tucker

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))

import clips  # noqa: E402  # a script beside the models, not a package

BATCH, FITTED = 20, 128


def main() -> None:
    """Scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200, help="number of held-out clips")
    parser.add_argument("--out", type=Path, help="file to write the Markdown to as well")
    args = parser.parse_args()
    original = ROOT / "models" / "strokes.onnx"
    ranks = str(ROOT / "models" / "thesis_ranks.toml")
    thesis = onnx_tucker.compress(original, ranks=ranks, benchmark=False).model
    data = {"clip": clips.clips(clips.CALIBRATION, FITTED)[0]}
    fitted = onnx_tucker.compress(original, ranks=ranks, data=data, benchmark=False).model
    models = {
        "as trained": original.read_bytes(),
        "compressed by `make demo`": (ROOT / "build" / "strokes.onnx").read_bytes(),
        "at the thesis's ranks": thesis.SerializeToString(),
        f"at the thesis's ranks, fitted to {FITTED} clips": fitted.SerializeToString(),
    }
    sessions = {name: ort.InferenceSession(m, providers=["CPUExecutionProvider"]) for name, m in models.items()}
    right = dict.fromkeys(models, 0)
    for start in range(0, args.clips, BATCH):
        pixels, labels = clips.clips(clips.TEST, min(BATCH, args.clips - start), start)
        for name, session in sessions.items():
            right[name] += int(np.sum(session.run(None, {"clip": pixels})[0].argmax(axis=1) == labels))
    lines = [f"| accuracy on {args.clips:,} held-out clips | |", "|---|---|"]
    lines += [f"| {name} | {count / args.clips:.1%} |" for name, count in right.items()]
    text = "\n".join(lines)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
