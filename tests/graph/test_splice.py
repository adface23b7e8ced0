from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_tucker import compress
from onnx_tucker.graph import provenance
from tests.helpers import conv_model, factorised, low_rank, model, relative, run, two_layers


def spliced(made: onnx.ModelProto, label: str, method: str, ranks: tuple[int, ...]) -> onnx.ModelProto:
    return factorised(made, {label: (method, ranks)})


def decorated() -> onnx.ModelProto:
    """A model with something in many fields that a rewrite might lose."""
    made = two_layers()
    made.producer_name, made.domain, made.doc_string, made.model_version = "me", "here", "words", 7
    made.metadata_props.add(key="k", value="v")
    made.opset_import.add(domain="other", version=3)
    made.functions.append(
        helper.make_function(
            "other", "F", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], [helper.make_opsetid("", 18)]
        )
    )
    made.graph.doc_string = "graph words"
    made.graph.metadata_props.add(key="g", value="h")
    made.graph.value_info.add().CopyFrom(helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 32, 16, 16]))
    made.graph.value_info.add().CopyFrom(helper.make_tensor_value_info("dangling", TensorProto.FLOAT, [1]))
    annotation = made.graph.quantization_annotation.add(tensor_name="r")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    for node in made.graph.node:
        node.doc_string = f"about {node.name}"
        node.metadata_props.add(key="n", value=node.name)
    return made


def test_only_the_node_and_its_weight_change() -> None:
    made = decorated()
    result = spliced(made, "conv", "tucker2", (3, 3))
    onnx.checker.check_model(result, full_check=True)
    chain = [n for n in result.graph.node if n.name.startswith("conv")]
    assert [n.op_type for n in chain] == ["Conv"] * 3
    assert chain[-1].output == made.graph.node[0].output
    assert chain[-1].doc_string == "about conv"
    assert chain[-1].metadata_props[0].value == "conv"
    # Undo the change by hand: everything else has to be equal, field by field.
    for node in chain:
        result.graph.node.remove(node)
    result.graph.node.insert(0, made.graph.node[0])
    for tensor in [t for t in result.graph.initializer if t.name.startswith("conv/")]:
        result.graph.initializer.remove(tensor)
    result.graph.initializer.insert(0, made.graph.initializer[0])
    assert provenance.chains(result).nodes == {"conv"}
    assert provenance.chains(result).values == {node.output[0] for node in chain[:-1]}
    assert result.metadata_props.pop().key == provenance.KEY
    assert result == made


def test_the_input_is_not_changed() -> None:
    made = decorated()
    spliced(made, "fc", "svd", (3,))
    assert made == decorated()


@pytest.mark.parametrize(("label", "method", "ranks"), [("conv", "tucker2", (3, 3)), ("fc", "svd", (3,))])
def test_a_low_rank_layer_is_matched(label: str, method: str, ranks: tuple[int, ...]) -> None:
    made = two_layers()
    x = np.random.default_rng(0).standard_normal((2, 24, 16, 16)).astype(np.float32)
    assert relative(run(made, x=x)[0], run(spliced(made, label, method, ranks), x=x)[0]) < 0.1


def test_names_that_are_taken_are_avoided() -> None:
    made = two_layers()
    made.graph.node[1].name = "conv/tucker2/0"
    result = spliced(made, "conv", "tucker2", (3, 3))
    names = [n.name for n in result.graph.node]
    assert len(set(names)) == len(names)
    assert "conv/tucker2/0_1" in names


def test_old_models_list_their_weights_as_inputs() -> None:
    made = conv_model(low_rank(np.random.default_rng(0), 2, 8, 8, 3))
    made.ir_version = 3
    made.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in made.graph.initializer
    )
    result = spliced(made, "conv", "tucker2", (2, 2))
    onnx.checker.check_model(result, full_check=True)
    assert {v.name for v in result.graph.input} == {"x", *(t.name for t in result.graph.initializer)}
    x = np.random.default_rng(0).standard_normal((1, 8, 8)).astype(np.float32)
    assert relative(run(made, x=x)[0], run(result, x=x)[0]) < 0.1


def test_a_computed_bias_stays_with_the_last_stage() -> None:
    made = two_layers()
    made.graph.node.insert(0, helper.make_node("Neg", ["conv.bias"], ["negative"]))
    made.graph.node[1].input[2] = "negative"
    result = spliced(made, "conv", "tucker2", (3, 3))
    assert [list(n.input)[2:] for n in result.graph.node if n.op_type == "Conv"] == [[], [], ["negative"]]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("computed", [False, True])
def test_a_weight_whose_size_is_told_can_go(elsewhere: bool, computed: bool) -> None:
    """As exporters do that make a bias of zeros from the weight's size and the input's type."""
    tensors = {"w": low_rank(np.random.default_rng(0), 3, 12, 10, 3), "zero": np.zeros((), np.float32)}
    tensors |= {"one": np.ones(1, np.int64), "last": np.array([-1], np.int64)}
    nodes = [
        helper.make_node("Shape", ["w"], ["size"], "size", start=0, end=1),
        helper.make_node("Expand", ["size", "one"], ["sizes"], "sizes"),
        helper.make_node("CastLike", ["zero", "x"], ["like"], "like"),
        helper.make_node("Expand", ["like", "sizes"], ["bias"], "bias"),
        helper.make_node("Conv", ["x", "w", "bias"], ["c"], "conv"),
        helper.make_node("Concat", ["size", "last"], ["flat"], "flat", axis=0),
        helper.make_node("Reshape", ["c", "flat" if elsewhere else "last"], ["y"], "reshape"),
    ]
    if not elsewhere:
        del nodes[5]
    if computed:
        tensors |= {"v": tensors.pop("w"), "scale": np.full((12, 1, 1), 2, np.float32)}
        nodes.insert(0, helper.make_node("Mul", ["v", "scale"], ["w"], "scaled"))
    made = model(nodes, tensors, {"x": ["n", 10, 9]}, {"y": 2 if elsewhere else 1})
    result = spliced(made, "conv", "tucker2", (10, 12))
    onnx.checker.check_model(result, full_check=True)
    assert {"v", "w"}.isdisjoint(tensor.name for tensor in result.graph.initializer)
    assert [node.op_type for node in result.graph.node if node.output[0] == "size"] == ["Constant"]
    x = np.random.default_rng(1).standard_normal((2, 10, 9)).astype(np.float32)
    assert relative(run(made, x=x)[0], run(result, x=x)[0]) < 1e-5
    data = np.random.default_rng(2).standard_normal((80, 10, 9)).astype(np.float32) + 1
    rebiased = compress(made, ranks="3", data=data, benchmark=False).model
    kinds = {node.op_type for node in rebiased.graph.node}
    assert kinds == {"Conv", "Reshape"} | ({"Constant", "Concat"} if elsewhere else set())
    onnx.checker.check_model(rebiased, full_check=True)
    assert compress(made, ranks={"conv": "keep"}, benchmark=False).model == made


def test_what_is_cast_to_a_type_that_is_not_known_is_no_constant() -> None:
    nodes = [
        helper.make_node("Unknown", ["x"], ["u"], "unknown", domain="other"),
        helper.make_node("CastLike", ["b", "u"], ["bias"], "like"),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"], "conv"),
    ]
    tensors = {"w": np.ones((4, 4, 3), np.float32), "b": np.ones(4, np.float32)}
    made = model(nodes, tensors, {"x": ["n", 4, 9]}, {"y": 3})
    made.opset_import.add(domain="other", version=1)
    result = spliced(made, "conv", "tucker2", (4, 4))
    assert result.graph.node[-1].input[2] == "bias"
