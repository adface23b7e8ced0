"""What the tool says of itself in a model that it changed: one metadata entry, by which it knows its own chains."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import version

import onnx

KEY = "onnx_tucker"


def chain_outputs(model: onnx.ModelProto) -> frozenset[str]:
    """First outputs of the nodes that earlier runs put into the model."""
    text = next((entry.value for entry in model.metadata_props if entry.key == KEY), "{}")
    try:
        outputs = json.loads(text)["outputs"]
        return frozenset(output for output in outputs if isinstance(output, str))
    except (ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


def record(model: onnx.ModelProto, outputs: Iterable[str]) -> None:
    """Notes in the model, in place, that this version of the tool made the nodes with these first outputs."""
    known = chain_outputs(model) | set(outputs)
    text = json.dumps({"version": version("onnx-tucker"), "outputs": sorted(known)}, ensure_ascii=False)
    entry = next((entry for entry in model.metadata_props if entry.key == KEY), None)
    if entry is None:
        entry = model.metadata_props.add(key=KEY)
    entry.value = text
