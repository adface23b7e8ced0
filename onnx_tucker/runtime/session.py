"""onnxruntime sessions on the CPU, all made in one place with the same options."""

from __future__ import annotations

import math
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as status

from onnx_tucker.errors import TuckerError
from onnx_tucker.runtime.clock import fitting

Feed = Mapping[str, NDArray[Any]]

TYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}
"""What arrays of an input are, by onnxruntime's name for it."""
TEXT = "tensor(string)"
"""Its arrays are of texts of any length."""

FAILURES = (
    status.EngineError,
    status.EPFail,
    status.Fail,
    status.InvalidArgument,
    status.InvalidGraph,
    status.InvalidProtobuf,
    status.NoModel,
    status.NoSuchFile,
    status.NotImplemented,
    status.RuntimeException,
    RuntimeError,
    ValueError,
)
"""What a session raises for a model or an input that it cannot run: one class a status code, without a common base."""


@dataclass(frozen=True)
class Machine:
    """How sessions run.

    Attributes:
        threads: threads of one operator; 0 for one a core, of those that this process may use. onnxruntime, to which
            it is left where that is all of them, would count the others too.
        custom_op_lib: whole path of a shared library with custom operators; others are looked for among the system's.
        merging: whether a Transpose is merged into the MatMul behind it; see `graph.check.merges`.
    """

    threads: int = 0
    custom_op_lib: Path | None = None
    merging: bool = True

    def check(self) -> None:
        """Makes sure that the library with custom operators can be loaded.

        Raises:
            TuckerError: it cannot.
        """
        if self.custom_op_lib is None:
            return
        if not self.custom_op_lib.is_file():
            raise TuckerError(f"--custom-op-lib: there is no file {self.custom_op_lib}.")
        try:
            ort.SessionOptions().register_custom_ops_library(str(self.custom_op_lib))
        except FAILURES as error:
            raise TuckerError(f"--custom-op-lib {self.custom_op_lib} cannot be loaded: {first_line(error)}") from error

    @property
    def clock(self) -> Callable[[], float]:
        """By which runs of its sessions are timed; operators of others may have threads of their own."""
        return fitting(self.threads or cores()) if self.custom_op_lib is None else time.perf_counter

    def describe(self) -> dict[str, Any]:
        """The options of a session, for the report."""
        return {
            "threads": self.threads or "all",
            "execution": "sequential",
            "graph_optimizations": "all",
            "allocator": "arena",
            "threads_spin_between_runs": False,
            "clock": "wall" if self.clock is time.perf_counter else "thread",
        }

    def session(
        self,
        model: bytes,
        folder: Path | None = None,
        profile: Path | None = None,
        *,
        arena: bool = True,
        optimised: bool = True,
    ) -> ort.InferenceSession:
        """A CPU session on a model's bytes.

        Args:
            model: the model, smaller than 2 GB.
            folder: what its external data is relative to; None where it has none.
            profile: beginning of the path of a file that gets a profile of its runs; None for none.
            arena: whether it keeps the memory that runs have taken, as it does by default, up to twice as much as they
                take at most; an output that is held keeps all of that.
            optimised: whether onnxruntime merges and replaces nodes; else all run as they are.

        Raises:
            FAILURES: onnxruntime cannot run the model.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads or (cores() if cores() < (os.cpu_count() or 1) else 0)
        options.log_severity_level = 4
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = arena
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        # Threads that spin on after a run would steal the cores from the session that is timed next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        if self.custom_op_lib is not None:
            options.register_custom_ops_library(str(self.custom_op_lib))
        left_out = [] if self.merging else ["MatmulTransposeFusion"]
        # Falling back would try the same provider again, and print to stdout.
        return ort.InferenceSession(
            model, options, providers=["CPUExecutionProvider"], enable_fallback=0, disabled_optimizers=left_out
        )


@cache
def operators() -> frozenset[str]:
    """Names of the operators that onnxruntime has in the standard domain; not all of them are of the standard."""
    return frozenset(schema.name for schema in status.get_all_operator_schema() if schema.domain == "")


def run_within(session: ort.InferenceSession, feed: Feed, seconds: float) -> None:
    """Runs a model to see that it runs, for `seconds` at most.

    Raises:
        FAILURES: onnxruntime cannot run the model on this input, or it was still running.
    """
    options = ort.RunOptions()
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.start()
    try:
        session.run(None, dict(feed), options)
    except FAILURES as error:
        if options.terminate:
            raise RuntimeError(f"it was still running after {seconds:.0f} s") from error
        raise
    finally:
        timer.cancel()


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without onnxruntime's status prefix, or two where the first announces them."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = f"{lines[0]}: {lines[1].strip()}" if lines[0].endswith("indices") and len(lines) > 1 else lines[0]
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text


def output_names(session: ort.InferenceSession) -> list[str]:
    """Names of the model's outputs, in order."""
    return [value.name for value in session.get_outputs()]


def run_named(session: ort.InferenceSession, feed: Feed) -> dict[str, Any]:
    """The outputs of a model by name."""
    return dict(zip(output_names(session), session.run(None, dict(feed)), strict=True))


def environment(machine: Machine) -> dict[str, Any]:
    """What a measurement depends on, for the report."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        **machine.describe(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **_versions(),
    }


@cache  # what is installed is read from files
def _versions() -> dict[str, str]:
    packages = ("onnx-tucker", "onnx", "onnxruntime", "numpy", "tensorly")
    return {name.replace("-", "_"): version(name) for name in packages}


def cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def memory() -> float:
    """Bytes of physical memory; infinite where the system does not tell."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return math.inf


@cache
def cpu_name() -> str:
    """The processor's model name where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
