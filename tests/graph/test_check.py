from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.errors import ModelError
from onnx_tucker.graph.check import fatal, invalid, weight_bytes
from tests.helpers import two_layers


def test_what_the_checker_says(tmp_path: Path) -> None:
    assert invalid(two_layers(), tmp_path) is None
    broken = two_layers()
    broken.graph.node[1].input[0] = "nowhere"
    assert "nowhere" in str(invalid(broken, tmp_path))


def test_external_data_is_checked_without_it(tmp_path: Path) -> None:
    onnx.save_model(two_layers(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    made = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert invalid(made, tmp_path) is None
    made.graph.node[1].input[0] = "nowhere"
    assert "nowhere" in str(invalid(made, tmp_path))
    assert (
        weight_bytes(made) == weight_bytes(two_layers()) == sum(len(t.raw_data) for t in two_layers().graph.initializer)
    )


def test_what_onnxruntime_does_not_survive_is_kept_from_it() -> None:
    made = two_layers()
    made.graph.node[0].op_type = "ConvTranspose"
    made.graph.node[0].attribute.append(helper.make_attribute("group", 0))
    assert fatal(made) == "the node 'conv' has 0 groups."
    with pytest.raises(ModelError, match="0 groups"):
        compress(made, benchmark=False)
