"""Turns a trained ONNX model into a smaller, faster one with the same inputs and outputs.

    result = onnx_tucker.compress("in.onnx", "out.onnx", ranks="vbmf")

See `compress` for the main job, `Settings` for its options and `errors` for what it raises.
"""

from onnx_tucker.errors import TuckerError
from onnx_tucker.pipeline import Result, compress, inspect, sweep
from onnx_tucker.settings import Settings
from onnx_tucker.types import Plan

__version__ = "0.1.0"

__all__ = ["Plan", "Result", "Settings", "TuckerError", "__version__", "compress", "inspect", "sweep"]
