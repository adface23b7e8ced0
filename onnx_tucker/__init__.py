"""Turns a trained ONNX model into a smaller, faster one with the same inputs and outputs.

    result = onnx_tucker.compress("in.onnx", "out.onnx", ranks="vbmf")

See `compress` for the main job, `Settings` for its options and `errors` for what it raises.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from onnx_tucker.version import __version__

if TYPE_CHECKING:
    from onnx_tucker.comparison import compare
    from onnx_tucker.errors import TuckerError
    from onnx_tucker.pipeline import Result, compress, finetune, inspect, sweep
    from onnx_tucker.rivals import bench
    from onnx_tucker.settings import Settings
    from onnx_tucker.types import Plan

__all__ = [
    "Plan",
    "Result",
    "Settings",
    "TuckerError",
    "__version__",
    "bench",
    "compare",
    "compress",
    "finetune",
    "inspect",
    "sweep",
]

_HOMES = {
    "Plan": "types",
    "Result": "pipeline",
    "Settings": "settings",
    "TuckerError": "errors",
    "bench": "rivals",
    "compare": "comparison",
    "compress": "pipeline",
    "finetune": "pipeline",
    "inspect": "pipeline",
    "sweep": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then, so that the command line can be interrupted while that is done."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
