"""Damaged and hostile models: a clear error or a valid result; never a traceback, a hang or half a file."""

from __future__ import annotations

import faulthandler
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper

from onnx_tucker import compress
from onnx_tucker.errors import TuckerError
from onnx_tucker.graph import io
from onnx_tucker.graph.check import invalid
from tests.corpus import CORPUS
from tests.graph.test_constants import WHEREABOUTS
from tests.helpers import conv_model, low_rank, two_layers
from tests.test_corpus import with_island

RUNS = 1300
"""Of each of the tests here; together more than 5,000."""

NUMBERS = [0, 1, -1, 2, 3, 7, 2**31 - 1, 2**31, -(2**31), 2**62, -(2**63), 2**63 - 1]
TEXTS = ["", "x", "w", "y", "SAME_UPPER", "ai.onnx", "com.microsoft", "../x", "\0", "n" * 300]


def conv_transpose() -> ModelProto:
    made = conv_model(low_rank(np.random.default_rng(0), 2, 8, 8, 3), strides=[2])
    made.graph.node[0].op_type = "ConvTranspose"
    return made


MODELS: list[Callable[[], ModelProto]] = [
    two_layers,
    conv_transpose,
    lambda: conv_model(low_rank(np.random.default_rng(0), 2, 8, 8, 3, 3), group=2),
    lambda: with_island(CORPUS["nested_bodies"]()),
    lambda: with_island(CORPUS["loop"]()),
    lambda: with_island(CORPUS["function_overloads"]()),
    lambda: with_island(CORPUS["ir_version_3"]()),
    *WHEREABOUTS.values(),
]


def survives(content: bytes, folder: Path) -> None:
    """Runs the tool on a model's bytes and checks what it leaves behind."""
    for path in folder.iterdir():
        path.unlink()
    source, target = folder / "in.onnx", folder / "out.onnx"
    source.write_bytes(content)
    began = time.perf_counter()
    faulthandler.dump_traceback_later(30)
    try:
        compress(source, target, ranks="2", benchmark=False)
    except TuckerError as error:
        text = str(error)
        assert text.strip()
        assert "please report" not in text, text
        assert {path.name for path in folder.iterdir()} == {"in.onnx"}
    else:
        made, original = onnx.load(target, load_external_data=False), ModelProto.FromString(content)
        assert invalid(made, folder) is None or invalid(original, folder) is not None
        moved = {"out.onnx.data"} if io.external_tensors(made) else set()
        assert {path.name for path in folder.iterdir()} == {"in.onnx", "out.onnx"} | moved
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.perf_counter() - began < 10
    assert source.read_bytes() == content


many = settings(max_examples=RUNS, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations")


@pytest.mark.slow
@many
@given(model=st.sampled_from(MODELS), data=st.data())
def test_damaged_bytes(folder: Path, model: Callable[[], ModelProto], data: st.DataObject) -> None:
    content = bytearray(model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["change", "delete", "insert", "cut", "repeat"]))
        if kind == "change":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "delete":
            del content[at : at + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        elif kind == "repeat":
            content[at:at] = content[at : at + data.draw(st.integers(1, 64))]
        else:
            del content[max(at, 1) :]
        content = content or bytearray(b"\0")
    survives(bytes(content), folder)


@pytest.mark.slow
@many
@given(model=st.sampled_from(MODELS), data=st.data())
def test_damaged_head(folder: Path, model: Callable[[], ModelProto], data: st.DataObject) -> None:
    """The graph around the weights, where a changed byte is sure to mean something."""
    made = model()
    for tensor in made.graph.initializer:
        if tensor.raw_data:
            tensor.raw_data = tensor.raw_data[:8]
    content = bytearray(made.SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    survives(bytes(content), folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nested_bodies", "function_overloads"])
def test_texts_that_are_none(folder: Path, kind: str) -> None:
    """Every byte in turn is one with which no character begins: in names, domains and whatever else."""
    made = with_island(CORPUS[kind]())
    for tensor in made.graph.initializer:
        tensor.raw_data = tensor.raw_data[:8]
    content = made.SerializeToString()
    for at in range(len(content)):
        survives(content[:at] + b"\x80" + content[at + 1 :], folder)


@pytest.mark.slow
@many
@given(model=st.sampled_from(MODELS), data=st.data())
def test_changed_fields(folder: Path, model: Callable[[], ModelProto], data: st.DataObject) -> None:
    """One to three fields anywhere in the message tree get another value of their type."""
    made = model()
    for _ in range(data.draw(st.integers(1, 3))):
        change_field(made, data)
    survives(made.SerializeToString(), folder)


@pytest.mark.slow
@many
@given(model=st.sampled_from(MODELS), data=st.data())
def test_changed_structure(folder: Path, model: Callable[[], ModelProto], data: st.DataObject) -> None:
    made = model()
    for _ in range(data.draw(st.integers(1, 3))):
        data.draw(st.sampled_from(CHANGES))(made, data)
    survives(made.SerializeToString(), folder)


def change_field(message: Any, data: st.DataObject) -> None:
    """Goes down to a random set field and changes it."""
    while True:
        fields = [(field, value) for field, value in message.ListFields() if field.name != "raw_data"]
        if not fields:
            return
        field, value = data.draw(st.sampled_from(fields))
        repeated = hasattr(value, "append") or hasattr(value, "add")
        if field.message_type:
            if repeated and data.draw(st.integers(0, 5)) == 0:
                del value[data.draw(st.integers(0, len(value) - 1))]
                return
            message = value[data.draw(st.integers(0, len(value) - 1))] if repeated else value
            continue
        new = data.draw(other_value(field))
        if repeated:
            index = data.draw(st.integers(0, len(value)))
            try:
                value[index : index + 1] = [new]
            except (ValueError, TypeError):
                return
        else:
            try:
                setattr(message, field.name, new)
            except (ValueError, TypeError):
                return
        return


def other_value(field: Any) -> st.SearchStrategy[Any]:
    if field.type == field.TYPE_STRING:
        return st.sampled_from(TEXTS)
    if field.type == field.TYPE_BYTES:
        return st.sampled_from([text.encode() for text in TEXTS] + [b"\xff\xfe"])
    if field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
        return st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e30])
    return st.sampled_from(NUMBERS) | st.integers(0, 40)


def nodes_of(made: ModelProto) -> list[onnx.NodeProto]:
    return list(made.graph.node)


def rewire(made: ModelProto, data: st.DataObject) -> None:
    """An input becomes some other value: another's type or shape, a cycle, nothing."""
    names = [o for n in made.graph.node for o in n.output] + [t.name for t in made.graph.initializer] + ["", "nowhere"]
    node = data.draw(st.sampled_from(nodes_of(made)))
    if node.input:
        node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))


def drop_input(made: ModelProto, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from(nodes_of(made)))
    del node.input[data.draw(st.integers(0, len(node.input))) :]


def drop_output(made: ModelProto, data: st.DataObject) -> None:
    del data.draw(st.sampled_from(nodes_of(made))).output[:]


def another_operator(made: ModelProto, data: st.DataObject) -> None:
    node = data.draw(st.sampled_from(nodes_of(made)))
    node.op_type = data.draw(st.sampled_from(["Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "If", "Nothing"]))
    node.domain = data.draw(st.sampled_from(["", "", "com.microsoft", "nobody.knows"]))


def another_attribute(made: ModelProto, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["strides", "pads", "dilations", "kernel_shape", "group", "transB", "auto_pad"]))
    value: Any = data.draw(
        st.lists(st.sampled_from(NUMBERS), max_size=5) | st.sampled_from(NUMBERS) | st.text(max_size=3)
    )
    node = data.draw(st.sampled_from(nodes_of(made)))
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value, attr_type=7 if value == [] else None))


def another_shape(made: ModelProto, data: st.DataObject) -> None:
    if made.graph.initializer:
        tensor = data.draw(st.sampled_from(list(made.graph.initializer)))
        dims = data.draw(st.lists(st.sampled_from([*NUMBERS, 4, 8, 24]), max_size=6))
        del tensor.dims[:]
        tensor.dims.extend(dims)


def another_type(made: ModelProto, data: st.DataObject) -> None:
    if made.graph.initializer:
        tensor = data.draw(st.sampled_from(list(made.graph.initializer)))
        tensor.data_type = data.draw(st.integers(0, 40))


def other_data(made: ModelProto, data: st.DataObject) -> None:
    if made.graph.initializer:
        tensor = data.draw(st.sampled_from(list(made.graph.initializer)))
        tensor.raw_data = tensor.raw_data[: data.draw(st.integers(0, 64))]


def external_nonsense(made: ModelProto, data: st.DataObject) -> None:
    if made.graph.initializer:
        tensor = data.draw(st.sampled_from(list(made.graph.initializer)))
        tensor.data_location = TensorProto.EXTERNAL
        for key in data.draw(st.lists(st.sampled_from(["location", "offset", "length", "checksum", "else"]))):
            value = data.draw(st.sampled_from([*TEXTS, "in.onnx", ".", "/dev/zero", "-5", "1e9", str(2**70)]))
            tensor.external_data.add(key=key, value=value)


def twice(made: ModelProto, data: st.DataObject) -> None:
    made.graph.node.append(data.draw(st.sampled_from(nodes_of(made))))


def other_order(made: ModelProto, data: st.DataObject) -> None:
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in data.draw(st.permutations(nodes_of(made)))]
    del made.graph.node[:]
    made.graph.node.extend(nodes)


def other_versions(made: ModelProto, data: st.DataObject) -> None:
    made.ir_version = data.draw(st.sampled_from([*NUMBERS, 3, 4, 8, 13, 14]))
    if made.opset_import:
        made.opset_import[0].version = data.draw(st.sampled_from([*NUMBERS, 7, 11, 13, 26, 30]))


def no_imports(made: ModelProto, data: st.DataObject) -> None:
    del made.opset_import[:]


def interface_of_weights(made: ModelProto, data: st.DataObject) -> None:
    for tensor in made.graph.initializer:
        made.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, None))


def own_claims(made: ModelProto, data: st.DataObject) -> None:
    value = data.draw(
        st.sampled_from(
            ['{"nodes": 5, "values": []}', '{"nodes": ["y", 3], "values": ["\\ud800"]}', "[" * 9000, "", "\0"]
        )
    )
    made.metadata_props.add(key="onnx_tucker", value=value)


def no_weight(made: ModelProto, data: st.DataObject) -> None:
    if made.graph.initializer:
        del made.graph.initializer[data.draw(st.integers(0, len(made.graph.initializer) - 1))]


def strange_weight(made: ModelProto, data: st.DataObject) -> None:
    if made.graph.initializer:
        tensor = data.draw(st.sampled_from(list(made.graph.initializer)))
        value = data.draw(st.sampled_from([np.nan, np.inf, 1e38, 0.0]))
        tensor.raw_data = np.float32(value).tobytes() + tensor.raw_data[4:]


CHANGES: list[Callable[[ModelProto, st.DataObject], None]] = [
    rewire,
    drop_input,
    drop_output,
    another_operator,
    another_attribute,
    another_shape,
    another_type,
    other_data,
    external_nonsense,
    twice,
    other_order,
    other_versions,
    no_imports,
    interface_of_weights,
    own_claims,
    no_weight,
    strange_weight,
]
