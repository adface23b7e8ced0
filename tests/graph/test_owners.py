from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from onnx_tucker.graph.owners import tagged, times
from onnx_tucker.runtime.memory import Memory
from onnx_tucker.runtime.session import Machine
from onnx_tucker.runtime.timing import Stopwatch
from tests.helpers import Array, factorised, model, two_layers


def noise(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_fused_and_renamed_operators_go_to_the_nodes_they_were() -> None:
    """Convolution, addition and activation become one operator in the blocked layout, under the name of a value."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["c"], pads=[1] * 4),
        helper.make_node("Add", ["c", "b"], ["d"]),
        helper.make_node("Relu", ["d"], ["y"]),
    ]
    tensors = {"w": noise(32, 16, 3, 3), "v": noise(32, 32, 3, 3)}
    made = model(nodes, tensors, {"x": ["n", 16, 32, 32]}, {"y": 4})
    steps = Stopwatch(Machine(1), Memory(None)).profile(tagged(made), {"x": noise(1, 16, 32, 32)})
    owned = times(made, {"first", "c"}, steps)
    assert owned.keys() == {"first", "c"}
    assert sum(owned.values()) == pytest.approx(sum(step.ms for step in steps), rel=0.3)


def test_chains_go_to_the_node_in_whose_place_they_are() -> None:
    made = factorised(two_layers(), {"conv": ("tucker2", (3, 3)), "fc": ("svd", (3,))})
    steps = Stopwatch(Machine(1), Memory(None)).profile(tagged(made), {"x": noise(1, 24, 16, 16)})
    owned = times(made, {"conv", "fc"}, steps)
    assert owned.keys() == {"conv", "fc"}
    assert owned["conv"] > owned["fc"] > 0


def test_nodes_may_be_called_like_parts_of_others() -> None:
    made = two_layers()
    made.graph.node[1].name = "conv/act"
    ran = [("#0#", "Conv", 1.0), ("#1#", "Relu", 0.5)]
    assert times(made, {"conv"}, ran) == {"conv": 1.5}
    assert times(made, {"conv"}, ran, {node.name for node in made.graph.node}) == {"conv": 1.0}


def test_what_belongs_to_nobody_is_left_out() -> None:
    made = two_layers()
    assert times(made, {"conv"}, [("elsewhere", "Relu", 1.0), ("#2#", "GlobalAveragePool", 1.0)]) == {}
    assert times(made, {"conv"}, [("ReorderInput", "ReorderInput", 0.5), ("#0#", "Conv", 1.0)]) == {"conv": 1.5}
    assert times(made, {"conv"}, [("#0#", "Conv", 1.0), ("ReorderOutput", "ReorderOutput", 0.25)]) == {"conv": 1.25}
