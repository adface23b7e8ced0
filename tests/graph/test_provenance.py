from __future__ import annotations

import json

import pytest

from onnx_tucker.graph.provenance import KEY, Chains, Recipe, chains, recipes, record
from tests.helpers import two_layers


def test_chains_of_all_runs_are_noted_in_one_entry() -> None:
    made = two_layers()
    assert chains(made) == Chains()
    record(made, Chains(frozenset({"b"}), frozenset({"b/svd/0"})), {})
    record(made, Chains(frozenset({"a"}), frozenset({"a/svd/0"})), {})
    assert chains(made) == Chains(frozenset("ab"), frozenset(["a/svd/0", "b/svd/0"]))
    [entry] = made.metadata_props
    assert json.loads(entry.value)["nodes"] == ["a", "b"]


@pytest.mark.parametrize("value", ["", "a note", "[]", '{"nodes": 5}', '{"nodes": [3, "\\ud800"], "values": []}'])
def test_what_others_write_there_is_no_chain_and_no_harm(value: str) -> None:
    made = two_layers()
    made.metadata_props.add(key=KEY, value=value)
    record(made, Chains(frozenset({"a"})), {})
    assert "a" in chains(made).nodes
    made.SerializeToString()


def test_recipes_of_all_runs_are_noted_whose_weights_are_there() -> None:
    made = two_layers()
    assert recipes(made) == {}
    kept = {"c": Recipe(None, None, "tiles2", ("conv.weight",))}
    record(made, Chains(), {"b": Recipe(None, None, "tiles2", ("b/0/weight",)), **kept})
    known = {"a": Recipe("svd", (3,), "direct", ("a/svd/0/weight", "a/svd/1/weight"))}
    record(made, Chains(), known)
    assert recipes(made) == {**kept, **known}


@pytest.mark.parametrize(
    "value",
    ["", "[]", '{"recipes": 5}', '{"recipes": {"a": [1]}}', '{"recipes": {"a": [1, 2, 3, 4]}}']
    + [f'{{"recipes": {{"a": {recipe}}}}}' for recipe in ('[[1], [2], "direct", ["w"]]', '["svd", [2], "direct", []]')],
)
def test_recipes_that_others_have_damaged_are_none(value: str) -> None:
    made = two_layers()
    made.metadata_props.add(key=KEY, value=value)
    assert recipes(made) == {}
