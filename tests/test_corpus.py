"""What is not factorised stays as it is, field by field, whatever it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnx_tucker import compress
from onnx_tucker.graph import provenance
from tests.corpus import CORPUS
from tests.helpers import load_whole, low_rank

ISLAND = "island"


def with_island(made: ModelProto) -> ModelProto:
    """The model with a Gemm worth factorising beside everything else, which has said something in every field."""
    rng = np.random.default_rng(0)
    made.graph.node.insert(1, helper.make_node("Gemm", ["in", "weight", "bias"], ["out"], ISLAND, transB=1))
    made.graph.node[1].doc_string = "about the island"
    made.graph.node[1].metadata_props.add(key="k", value="v")
    tensors = {"weight": low_rank(rng, 3, 32, 24), "bias": np.ones(32, np.float32)}
    made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in tensors.items())
    made.graph.value_info.append(helper.make_tensor_value_info("weight", TensorProto.FLOAT, [32, 24]))
    made.graph.input.append(helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 24]))
    made.graph.output.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 32]))
    if made.ir_version < 4:
        made.graph.input.extend(
            helper.make_tensor_value_info(n, TensorProto.FLOAT, list(a.shape)) for n, a in tensors.items()
        )
    return made


def undone(result: ModelProto, made: ModelProto) -> ModelProto:
    """The result with the island's node, weight and value_info put back, and the provenance taken away."""
    chain = [
        node for node in result.graph.node if node.name == ISLAND or node.output[0] in provenance.chains(result).values
    ]
    position = list(result.graph.node).index(chain[0])
    new = {t.name for t in result.graph.initializer} - {t.name for t in made.graph.initializer}
    for node in chain:
        result.graph.node.remove(node)
    result.graph.node.insert(position, next(n for n in made.graph.node if n.name == ISLAND))
    for values in (result.graph.initializer, result.graph.input):
        for value in [v for v in values if v.name in new]:
            values.remove(value)
    for field in ("initializer", "input", "value_info"):
        for i, value in enumerate(getattr(made.graph, field)):
            if value.name == "weight":
                getattr(result.graph, field).insert(i, value)
    entry = next(e for e in result.metadata_props if e.key == provenance.KEY)
    result.metadata_props.remove(entry)
    return result


@pytest.mark.parametrize("name", CORPUS)
def test_nothing_to_gain_changes_nothing(name: str, tmp_path: Path) -> None:
    made = CORPUS[name]()
    result = compress(made, ranks="energy:1.0", benchmark=False)
    assert result.model == CORPUS[name]()
    assert made == CORPUS[name]()
    (tmp_path / "in.onnx").write_bytes(made.SerializeToString())
    compress(tmp_path / "in.onnx", tmp_path / "out.onnx", ranks="energy:1.0", benchmark=False)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "in.onnx").read_bytes()


@pytest.mark.parametrize("name", CORPUS)
def test_one_node_changed_is_all_the_difference(name: str) -> None:
    made = with_island(CORPUS[name]())
    before = ModelProto.FromString(made.SerializeToString())
    result = compress(made, ranks="4", benchmark=False, include=[ISLAND])
    assert made == before
    assert [(n.name, n.status) for n in result.report.nodes if n.name == ISLAND] == [(ISLAND, "factorized")]
    again = compress(result.model, ranks="2", benchmark=False)
    assert again.model == result.model  # its own chain is known and left alone
    assert undone(ModelProto.FromString(result.model.SerializeToString()), before) == before


@pytest.mark.parametrize("name", CORPUS)
def test_weights_may_move_to_a_data_file(name: str, tmp_path: Path) -> None:
    made = with_island(CORPUS[name]())
    options = {"ranks": "full", "benchmark": False, "save_as_external_data": True}
    compress(made, tmp_path / "out.onnx", **options)
    assert load_whole(tmp_path / "out.onnx") == made


def test_every_field_of_the_format_is_in_the_corpus() -> None:
    """Every field of every message that a model may hold is set in some model, so that a new one is noticed."""
    models = [with_island(build()) for build in CORPUS.values()]
    unseen = fields_of(ModelProto.DESCRIPTOR, set()) - {f for made in models for f in set_fields(made)}
    # The data file of a tensor has tests of its own.
    unseen -= {"TensorProto.external_data", "TensorProto.data_location"}
    assert not unseen


def fields_of(descriptor: object, known: set[str]) -> set[str]:
    """All fields of a message and of those in it, by message and name."""
    for field in descriptor.fields:  # type: ignore[attr-defined]
        name = f"{descriptor.name}.{field.name}"  # type: ignore[attr-defined]
        if name not in known:
            known.add(name)
            if field.message_type:
                fields_of(field.message_type, known)
    return known


def set_fields(message: object) -> set[str]:
    """All fields that are set in a message and those in it."""
    found = set()
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        found.add(f"{message.DESCRIPTOR.name}.{field.name}")  # type: ignore[attr-defined]
        if field.message_type:
            for inner in value if hasattr(value, "__len__") else [value]:
                found |= set_fields(inner)
    return found
