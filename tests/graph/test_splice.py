from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_tucker.graph import provenance
from tests.helpers import conv_model, factorised, low_rank, relative, run, two_layers


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
