"""The tool as a pass of Olive, which leads a model through one tool after another by a recipe.

Olive finds passes by a list of its own. `python -m onnx_tucker.extras.olive` prints that with this pass on it, for
`olive run --package-config`; from Python `package()` is it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from olive.hardware import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

from onnx_tucker.errors import UsageError
from onnx_tucker.pipeline import compress
from onnx_tucker.settings import Settings

DECIDED = ("dry_run", "overwrite")
"""Options that a pass cannot leave to its recipe: it has to write a model, into a folder that is its own."""


class OnnxTucker(Pass):  # type: ignore[misc]  # Olive's types are not looked at
    """Factorises the linear layers of an ONNX model; its options are the fields of `Settings`."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        usual = Settings()
        named = (one.name for one in fields(Settings) if one.name not in DECIDED)
        return {
            name: PassConfigParam(type_=Any, default_value=getattr(usual, name), description="See Settings.")
            for name in named
        }

    def _run_for_config(self, model: Any, config: BasePassConfig, output_model_path: str) -> ONNXModelHandler:
        """Writes the factorised model.

        Raises:
            TuckerError: see `compress`; nothing is written then.
        """
        if not isinstance(model, ONNXModelHandler):
            raise UsageError(f"The pass takes ONNX models, not a {type(model).__name__}; convert it first.")
        target = Path(resolve_onnx_path(output_model_path))
        target.parent.mkdir(parents=True, exist_ok=True)
        compress(model.model_path, target, overwrite=True, **config.model_dump())
        return ONNXModelHandler(model_path=str(target.parent), onnx_file_name=target.name)  # with a data file, if any


def package() -> dict[str, Any]:
    """Olive's own list of passes, with this one on it."""
    known: dict[str, Any] = json.loads(Path(OlivePackageConfig.get_default_config_path()).read_text(encoding="utf-8"))
    every = {key: ["*"] for key in ("supported_providers", "supported_accelerators", "supported_precisions")}
    known["passes"][OnnxTucker.__name__] = {"module_path": f"onnx_tucker.extras.olive.{OnnxTucker.__name__}", **every}
    return known


if __name__ == "__main__":
    json.dump(package(), sys.stdout, indent=2)
