from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from onnx_tucker.graph.skeleton import skeleton
from tests.helpers import two_layers


def test_it_is_valid_small_and_has_the_same_shapes(tmp_path: Path) -> None:
    onnx.save_model(two_layers(), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    outside = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for made in (two_layers(), outside):
        bare = skeleton(made, tmp_path)
        onnx.checker.check_model(bare, full_check=True)
        assert len(bare.SerializeToString()) < 2000
        shapes = {v.name: v.type for v in onnx.shape_inference.infer_shapes(bare).graph.value_info}
        assert shapes == {v.name: v.type for v in onnx.shape_inference.infer_shapes(two_layers()).graph.value_info}


def test_weights_may_be_nodes(tmp_path: Path) -> None:
    made = two_layers()
    constants = [helper.make_node("Constant", [], [t.name], value=t) for t in made.graph.initializer]
    nodes = [*constants, *made.graph.node]
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.node.extend(nodes)
    bare = skeleton(made, tmp_path)
    onnx.checker.check_model(bare, full_check=True)
    assert len(bare.SerializeToString()) < 2000
