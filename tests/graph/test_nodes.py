from __future__ import annotations

import onnx
from onnx import external_data_helper

from onnx_tucker.graph.nodes import opset_of, places, tensors
from tests.corpus import CORPUS


def test_every_tensor_is_found_that_onnx_finds() -> None:
    for name, build in CORPUS.items():
        made = build()
        expected = [t.SerializeToString() for t in external_data_helper._get_all_tensors(made)]
        found = [t.SerializeToString() for t in tensors(made)]
        assert set(expected) <= set(found), name


def test_labels_are_unique_everywhere() -> None:
    for build in CORPUS.values():
        labels = [place.label for place in places(build())]
        assert len(set(labels)) == len(labels)


def test_labels_of_bodies_and_functions() -> None:
    assert [p.label for p in places(CORPUS["nested_bodies"]())][2:] == [
        "if",
        "if/else_branch/else_node",
        "if/then_branch/in",
        "if/then_branch/in/else_branch/e_node",
        "if/then_branch/in/then_branch/t_node",
    ]
    functions = [p for p in places(CORPUS["function_overloads"]()) if p.scope.function]
    assert [p.label for p in functions] == ["mine.Twice.one/double", "mine.Twice.two/double"]


def test_a_model_may_import_no_standard_operators() -> None:
    assert opset_of(onnx.ModelProto()) == 0
