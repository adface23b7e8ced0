"""Compresses models of growing size, and prints how long that takes and how much memory.

    python benchmarks/large_model.py [--layers 60]... [--folder DIR] [--ranks energy:0.9]

A model is a stack of Gemm layers, 1024 to 16384 features and back, with 64 MiB of weights each in one data file: 60 of
them have 1e9 weights. It is generated in a temporary folder, which needs room for the model and the result.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from onnx_tucker.runtime.session import Machine, environment

NARROW, WIDE, RANK = 1024, 16384, 64


def generate(path: Path, layers: int) -> None:
    """Writes the model, one layer in memory at a time."""
    rng = np.random.default_rng(0)
    nodes, tensors = [], []
    with path.with_suffix(".data").open("wb") as file:
        for i in range(layers):
            out, inp = (WIDE, NARROW) if i % 2 == 0 else (NARROW, WIDE)
            weight = rng.standard_normal((out, RANK), np.float32) @ rng.standard_normal((RANK, inp), np.float32)
            weight += rng.standard_normal((out, inp), np.float32)
            weight /= np.float32(np.sqrt(inp * (RANK + 1)))
            tensor = TensorProto(
                name=f"w{i}", data_type=TensorProto.FLOAT, dims=(out, inp), data_location=TensorProto.EXTERNAL
            )
            entries = {"location": path.with_suffix(".data").name, "offset": file.tell(), "length": weight.nbytes}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            tensors.append(tensor)
            nodes.append(helper.make_node("Gemm", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"layer{i}", transB=1))
            file.write(weight.tobytes())
    graph = helper.make_graph(
        nodes,
        "stack",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["n", NARROW])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, ["n", NARROW if layers % 2 == 0 else WIDE])],
        tensors,
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    path.write_bytes(model.SerializeToString())


def sizes(path: Path) -> int:
    """Bytes of a model and its data file."""
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.stem}*"))


def measured(layers: int, ranks: str, folder: str | None) -> str:
    """A row of the table: a stack generated and compressed in a process of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        source, target = Path(place) / "large.onnx", Path(place) / "small.onnx"
        generate(source, layers)
        command = [sys.executable, "-m", "onnx_tucker", str(source), str(target), "--ranks", ranks, "--no-cache", "-q"]
        began = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        onnx.checker.check_model(target, full_check=True)
        before, after = sizes(source), sizes(target)
    cells = [f"{layers * NARROW * WIDE:.2g}", str(layers), f"{before / 1e9:.2f}", f"{after / 1e9:.2f}"]
    return "| " + " | ".join([*cells, f"{seconds:.0f}", f"{peak / 1e9:.2f}"]) + " |"


def main() -> None:
    """Generates, compresses, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, action="append", help="repeatable (default: 1, 6, 60)")
    parser.add_argument("--folder", help="where to put the model and the result")
    parser.add_argument("--ranks", default="energy:0.9")
    parser.add_argument("--out", help="also write the table to this file")
    args = parser.parse_args()
    rows = ["| weights | layers | model GB | result GB | seconds | peak memory GB |", "|---|---|---|---|---|---|"]
    for layers in args.layers or (1, 6, 60):
        rows.append(measured(layers, args.ranks, args.folder))
        print(rows[-1], file=sys.stderr, flush=True)
    machine = ", ".join(f"{k} {v}" for k, v in environment(Machine()).items())
    text = "\n".join(
        [*rows, "", f"`--ranks {args.ranks}`; a layer has {4 * NARROW * WIDE / 1e9:.2f} GB. {machine}", ""]
    )
    print(text)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
