"""What holds for the project as a whole."""

from __future__ import annotations

import subprocess
import sys


def test_the_core_imports_no_training_framework() -> None:
    code = "import sys, onnx_tucker, onnx_tucker.cli; assert not {'torch', 'openvino', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
