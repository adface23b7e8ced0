"""Compresses a model of more than 2 GB, and prints how much memory that took.

    python benchmarks/large_model.py [--layers 48] [--folder DIR] [--ranks ratio:0.25]

The model is a stack of Gemm layers, 1024 to 16384 features and back, with 64 MiB of weights each in one data file. It
is generated in a temporary folder, which needs room for the model and the result.
"""

from __future__ import annotations

import argparse
import resource
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


def main() -> None:
    """Generates, compresses, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--folder", help="where to put the model and the result")
    parser.add_argument("--ranks", default="ratio:0.25")
    parser.add_argument("--out", help="also write the table to this file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        source, target = Path(folder) / "large.onnx", Path(folder) / "small.onnx"
        generate(source, args.layers)
        command = [sys.executable, "-m", "onnx_tucker", str(source), str(target), "--ranks", args.ranks, "--no-cache"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        onnx.checker.check_model(target, full_check=True)
        before, after = sizes(source), sizes(target)
    layer = 4 * NARROW * WIDE
    machine = ", ".join(f"{k} {v}" for k, v in environment(Machine()).items())
    text = f"""| | GB |
|---|---|
| model, {args.layers} layers | {before / 1e9:.2f} |
| largest layer | {layer / 1e9:.2f} |
| result, `--ranks {args.ranks}` | {after / 1e9:.2f} |
| peak memory (resident set) of the command, {seconds:.0f} s | {peak / 1e9:.2f} |

{machine}
"""
    print(text)
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
