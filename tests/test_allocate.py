"""Ranks for a budget."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.allocate import choose
from onnx_tucker.curves import Curve, Point
from onnx_tucker.errors import PromiseError, UsageError
from tests.helpers import Array, model, relative, run, two_layers

RNG = np.random.default_rng(0)


def curve(points: list[tuple[float, float]], weight: float) -> Curve:
    return Curve([], [Point(cost, error) for cost, error in points], weight)


curves = st.lists(
    st.builds(
        curve,
        st.lists(st.tuples(st.floats(1, 100), st.floats(0, 1)), min_size=1, max_size=4),
        st.floats(0.01, 100),
    ),
    min_size=1,
    max_size=4,
)


@given(curves, st.floats(0, 400))
@settings(max_examples=200)
def test_the_limit_is_held_and_no_single_step_within_it_is_better(made: list[Curve], limit: float) -> None:
    chosen = choose(made, limit)
    least = sum(min(p.cost for p in c.points) for c in made)
    if chosen is None:
        assert least > limit
        return
    cost = sum(p.cost for p in chosen)
    assert cost <= limit
    for c, now in zip(made, chosen, strict=True):
        assert not [p for p in c.points if p.error < now.error and cost - now.cost + p.cost <= limit]


def test_what_counts_more_loses_less() -> None:
    points = [(10.0, 0.0), (5.0, 0.1), (1.0, 0.3)]
    chosen = choose([curve(points, 10.0), curve(points, 1.0)], 11.0)
    assert chosen == [Point(10.0, 0.0), Point(1.0, 0.3)]


def uneven() -> tuple[onnx.ModelProto, Array]:
    """Two layers: one of full rank in which inputs hardly vary but in few directions, one that mixes them all."""
    nodes = [
        helper.make_node("Gemm", ["x", "a", "p"], ["h"], "first"),
        helper.make_node("Gemm", ["h", "b", "q"], ["y"], "second"),
    ]
    tensors = {
        "a": RNG.standard_normal((32, 32)).astype(np.float32),
        "p": np.zeros(32, np.float32),
        "b": RNG.standard_normal((32, 32)).astype(np.float32),
        "q": np.zeros(32, np.float32),
    }
    x = RNG.standard_normal((200, 4)) @ RNG.standard_normal((4, 32)) + 0.05 * RNG.standard_normal((200, 32))
    return model(nodes, tensors, {"x": ["n", 32]}, {"y": 2}), x.astype(np.float32)


@pytest.mark.parametrize("quantity", ["flops", "params"])
@pytest.mark.parametrize("share", [0.75, 0.5])
def test_the_budget_is_held_and_data_makes_it_count(quantity: str, share: float) -> None:
    made, x = uneven()
    errors = []
    for data in ({"x": x[50:]}, ()):
        result = compress(made, ranks="auto", budget=f"{quantity}:{share}", data=data, benchmark=False)
        change = getattr(result.report.totals, quantity)
        assert change.after <= share * change.before
        errors.append(relative(run(made, x=x[:50])[0], run(result.model, x=x[:50])[0]))
    assert errors[0] < 0.3 * errors[1]


def test_a_budget_of_everything_changes_nothing() -> None:
    assert compress(two_layers(), ranks="auto", budget="flops:1", benchmark=False).model == two_layers()


def test_a_budget_that_cannot_be_reached_breaks_the_promise() -> None:
    with pytest.raises(PromiseError, match=r"flops:0.001 cannot be reached: at least the share 0\.\d+ would remain"):
        compress(two_layers(), ranks="auto", budget="flops:0.001", benchmark=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ranks": "auto"}, "go together"),
        ({"budget": "flops:0.5"}, "go together"),
        ({"ranks": "auto", "budget": "time"}, "it is flops:S or params:S"),
        ({"ranks": "auto", "budget": "flops:2"}, "a number from 0 to 1"),
    ],
)
def test_nonsense_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        compress(two_layers(), **options)
