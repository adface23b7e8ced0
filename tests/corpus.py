"""Small models, each named for the feature of ONNX that it holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Change = Callable[[ModelProto], None]

CORPUS: dict[str, Callable[[], ModelProto]] = {}


def base(opset: int = 18, ir_version: int = 9) -> ModelProto:
    """Relu and Identity on a vector of four."""
    nodes = [helper.make_node("Relu", ["x"], ["r"], "relu"), helper.make_node("Identity", ["r"], ["y"], "end")]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, [4])],
        [helper.make_tensor_value_info("y", FLOAT, [4])],
    )
    return helper.make_model(graph, ir_version=ir_version, opset_imports=[helper.make_opsetid("", opset)])


def case(change: Change) -> Change:
    """Registers a model: the base one, changed."""

    def build() -> ModelProto:
        made = base()
        change(made)
        return made

    CORPUS[change.__name__] = build
    return change


def cases(named: dict[str, Change]) -> None:
    """Registers models by name."""
    for name, change in named.items():
        change.__name__ = name
        case(change)


def custom(made: ModelProto, **attributes: object) -> onnx.NodeProto:
    """An operator that nobody knows, beside the rest, so that it may have any attribute."""
    made.opset_import.add(domain="nobody.knows", version=3)
    node = helper.make_node("Mystery", ["x"], ["m"], "mystery", domain="nobody.knows")
    for name, value in attributes.items():
        node.attribute.append(helper.make_attribute(name, value))
    made.graph.node.append(node)
    return made.graph.node[-1]


def constant(made: ModelProto, tensor: TensorProto) -> None:
    """An initializer that goes nowhere but into an output."""
    tensor.name = tensor.name or "k"
    made.graph.initializer.append(tensor)
    made.graph.node.append(helper.make_node("Identity", [tensor.name], ["k_out"], "k_end"))
    made.graph.output.append(helper.make_tensor_value_info("k_out", tensor.data_type, list(tensor.dims)))


def body(name: str, output: str, op_type: str = "Neg", inner: str = "x") -> GraphProto:
    return helper.make_graph(
        [helper.make_node(op_type, [inner], [output], f"{name}_node")],
        name,
        [],
        [helper.make_tensor_value_info(output, FLOAT, [4])],
    )


def add_if(made: ModelProto, then: GraphProto, other: GraphProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    made.graph.node.append(helper.make_node("If", ["flag"], ["z"], "if", then_branch=then, else_branch=other))
    made.graph.output.append(helper.make_tensor_value_info("z", FLOAT, [4]))


def function(name: str = "Twice", domain: str = "mine", overload: str = "") -> onnx.FunctionProto:
    made = helper.make_function(
        domain,
        name,
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"], "double")],
        [helper.make_opsetid("", 18)],
    )
    made.overload = overload
    return made


def call(made: ModelProto, output: str = "f", overload: str = "") -> None:
    if not any(o.domain == "mine" for o in made.opset_import):
        made.opset_import.add(domain="mine", version=1)
    node = helper.make_node("Twice", ["x"], [output], f"call_{output}", domain="mine")
    node.overload = overload
    made.graph.node.append(node)
    made.graph.output.append(helper.make_tensor_value_info(output, FLOAT, [4]))


# What is said about things


@case
def model_metadata(made: ModelProto) -> None:
    made.metadata_props.add(key="author", value="me")
    made.metadata_props.add(key="", value="")


@case
def model_producer(made: ModelProto) -> None:
    made.producer_name, made.producer_version, made.domain, made.model_version = "p", "1.2", "org.example", 2**40


@case
def model_doc_string(made: ModelProto) -> None:
    made.doc_string = "line one\nline two"


@case
def graph_doc_string(made: ModelProto) -> None:
    made.graph.doc_string = "about the graph"


@case
def graph_metadata(made: ModelProto) -> None:
    made.graph.metadata_props.add(key="g", value="h")


@case
def graph_without_name_of_its_own(made: ModelProto) -> None:
    made.graph.name = " "


@case
def node_doc_string(made: ModelProto) -> None:
    made.graph.node[0].doc_string = "about the node"


@case
def node_metadata(made: ModelProto) -> None:
    made.graph.node[0].metadata_props.add(key="namespace", value="a/b/c")


@case
def attribute_doc_string(made: ModelProto) -> None:
    custom(made, alpha=0.5).attribute[0].doc_string = "about the attribute"


@case
def input_doc_string_and_metadata(made: ModelProto) -> None:
    made.graph.input[0].doc_string = "about the input"
    made.graph.input[0].metadata_props.add(key="unit", value="metre")


@case
def output_metadata(made: ModelProto) -> None:
    made.graph.output[0].metadata_props.add(key="unit", value="metre")


@case
def tensor_doc_string_and_metadata(made: ModelProto) -> None:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "k")
    tensor.doc_string = "about the tensor"
    tensor.metadata_props.add(key="from", value="training")
    constant(made, tensor)


@case
def type_denotation(made: ModelProto) -> None:
    made.graph.input[0].type.denotation = "TENSOR"


@case
def dimension_denotation(made: ModelProto) -> None:
    made.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"


@case
def symbolic_dimension(made: ModelProto) -> None:
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


@case
def unknown_dimension(made: ModelProto) -> None:
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].Clear()


@case
def unknown_rank(made: ModelProto) -> None:
    made.graph.output[0].type.tensor_type.ClearField("shape")


@case
def value_info_with_metadata(made: ModelProto) -> None:
    made.graph.value_info.append(helper.make_tensor_value_info("r", FLOAT, [4], "about r"))
    made.graph.value_info[0].metadata_props.add(key="k", value="v")


@case
def value_info_of_an_initializer(made: ModelProto) -> None:
    constant(made, numpy_helper.from_array(np.ones(3, np.float32), "k"))
    made.graph.value_info.append(helper.make_tensor_value_info("k", FLOAT, [3]))


@case
def value_info_of_nothing(made: ModelProto) -> None:
    made.graph.value_info.append(helper.make_tensor_value_info("dangling", FLOAT, [7]))


@case
def quantization_annotation(made: ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "s"))
    annotation = made.graph.quantization_annotation.add(tensor_name="r")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")


@case
def device_configuration(made: ModelProto) -> None:
    made.ir_version = 11
    made.configuration.add(name="two", num_devices=2, device=["CPU:0", "CPU:1"])
    node = made.graph.node[0].device_configurations.add(configuration_id="two", pipeline_stage=1)
    sharding = node.sharding_spec.add(tensor_name="x", device=[0, 1])
    sharding.index_to_device_group_map.add(key=0, value=[1])
    sharding.sharded_dim.add(axis=0).simple_sharding.add(dim_value=4, num_shards=2)
    symbolic = sharding.sharded_dim.add(axis=0).simple_sharding.add(num_shards=2)
    symbolic.dim_param = "n"


@case
def several_opset_imports(made: ModelProto) -> None:
    made.opset_import.add(domain="ai.onnx.ml", version=3)
    made.opset_import.add(domain="com.microsoft", version=1)
    made.opset_import.add(domain="unused.domain", version=9)


@case
def standard_domain_spelt_out(made: ModelProto) -> None:
    made.graph.node[0].domain = "ai.onnx"


@case
def unknown_fields(made: ModelProto) -> None:
    """A field that this version of ONNX does not know: number 500, a string."""
    extra = b"\xa2\x1f\x05hello"
    made.ParseFromString(made.SerializeToString() + extra)


# Names


@case
def unnamed_nodes(made: ModelProto) -> None:
    for node in made.graph.node:
        node.name = ""


@case
def duplicate_node_names(made: ModelProto) -> None:
    for node in made.graph.node:
        node.name = "same"


@case
def unicode_names(made: ModelProto) -> None:
    made.graph.node[0].name = "слой/1 ☃"
    made.graph.node[0].output[0] = made.graph.node[1].input[0] = "层:0"


@case
def long_names(made: ModelProto) -> None:
    made.graph.node[0].name = "n" * 5000
    made.graph.node[0].output[0] = made.graph.node[1].input[0] = "v" * 5000


@case
def names_of_chains_taken(made: ModelProto) -> None:
    made.graph.node[0].name = "island/svd/0"
    made.graph.node[0].output[0] = made.graph.node[1].input[0] = "island/svd/0/weight"


@case
def node_and_value_of_the_same_name(made: ModelProto) -> None:
    made.graph.node[0].name = "x"


@case
def provenance_key_of_somebody_else(made: ModelProto) -> None:
    made.metadata_props.add(key="other_tool", value="[1, 2]")


# Graphs


@case
def empty_optional_input(made: ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.float32(1), "top"))
    made.graph.node[1].CopyFrom(helper.make_node("Clip", ["r", "", "top"], ["y"], "end"))


@case
def empty_optional_output(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Unique", ["x"], ["u", "", "", "counts"], "unique"))
    made.graph.output.append(helper.make_tensor_value_info("counts", TensorProto.INT64, [None]))


@case
def trailing_empty_inputs(made: ModelProto) -> None:
    made.graph.node[1].CopyFrom(helper.make_node("Clip", ["r", "", ""], ["y"], "end"))


@case
def unused_initializer(made: ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.ones((3, 3), np.float32), "unused"))


@case
def unused_input(made: ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("unused", FLOAT, [2]))


@case
def unused_node(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Neg", ["x"], ["nowhere"], "unused"))


@case
def initializer_is_an_output(made: ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "k"))
    made.graph.output.append(helper.make_tensor_value_info("k", FLOAT, [3]))


@case
def constant_node(made: ModelProto) -> None:
    value = numpy_helper.from_array(np.ones((3, 3), np.float32), "value")
    made.graph.node.append(helper.make_node("Constant", [], ["k"], "constant", value=value))
    made.graph.output.append(helper.make_tensor_value_info("k", FLOAT, [3, 3]))


@case
def constant_node_of_strings(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Constant", [], ["k"], "constant", value_strings=["a", "b"]))
    made.graph.output.append(helper.make_tensor_value_info("k", TensorProto.STRING, [2]))


@case
def overridable_initializer(made: ModelProto) -> None:
    constant(made, numpy_helper.from_array(np.ones(3, np.float32), "k"))
    made.graph.input.append(helper.make_tensor_value_info("k", FLOAT, [3]))


@case
def ir_version_3(made: ModelProto) -> None:
    made.CopyFrom(base(opset=7, ir_version=3))
    constant(made, numpy_helper.from_array(np.ones(3, np.float32), "k"))
    made.graph.input.append(helper.make_tensor_value_info("k", FLOAT, [3]))


@case
def opset_7(made: ModelProto) -> None:
    made.CopyFrom(base(opset=7, ir_version=4))


@case
def opset_26(made: ModelProto) -> None:
    made.CopyFrom(base(opset=26, ir_version=13))


# Bodies


@case
def if_branches(made: ModelProto) -> None:
    add_if(made, body("then", "a"), body("else", "b", "Abs"))


@case
def branches_with_the_same_names(made: ModelProto) -> None:
    add_if(made, body("then", "a"), body("then", "a", "Abs"))


@case
def branch_with_documentation(made: ModelProto) -> None:
    then = body("then", "a")
    then.doc_string = "about the branch"
    then.metadata_props.add(key="b", value="c")
    then.value_info.append(helper.make_tensor_value_info("a_inner", FLOAT, [4]))
    add_if(made, then, body("else", "b"))


@case
def branch_with_an_initializer(made: ModelProto) -> None:
    then = body("then", "a", "Add")
    then.node[0].input.append("inner")
    then.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "inner"))
    add_if(made, then, body("else", "b"))


@case
def branch_that_uses_an_outer_initializer(made: ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "outer"))
    add_if(made, body("then", "a", inner="outer"), body("else", "b"))


@case
def nested_bodies(made: ModelProto) -> None:
    inner = helper.make_node("If", ["flag"], ["a"], "in", then_branch=body("t", "p"), else_branch=body("e", "q"))
    then = helper.make_graph([inner], "then", [], [helper.make_tensor_value_info("a", FLOAT, [4])])
    add_if(made, then, body("else", "b"))


@case
def loop(made: ModelProto) -> None:
    made.graph.initializer.extend(
        [numpy_helper.from_array(np.array(3), "trips"), numpy_helper.from_array(np.array(True), "go")]
    )
    inside = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Neg", ["v"], ["v2"])],
        "loop",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("c2", TensorProto.BOOL, []), helper.make_tensor_value_info("v2", FLOAT, [4])],
    )
    made.graph.node.append(helper.make_node("Loop", ["trips", "go", "x"], ["l"], "loop", body=inside))
    made.graph.output.append(helper.make_tensor_value_info("l", FLOAT, [4]))


@case
def scan(made: ModelProto) -> None:
    inside = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["s2"]), helper.make_node("Identity", ["s2"], ["o"])],
        "scan",
        [helper.make_tensor_value_info("s", FLOAT, []), helper.make_tensor_value_info("e", FLOAT, [])],
        [helper.make_tensor_value_info("s2", FLOAT, []), helper.make_tensor_value_info("o", FLOAT, [])],
    )
    made.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    made.graph.node.append(
        helper.make_node("Scan", ["zero", "x"], ["last", "sums"], "scan", body=inside, num_scan_inputs=1)
    )
    made.graph.output.append(helper.make_tensor_value_info("sums", FLOAT, [4]))


# Functions


@case
def function_call(made: ModelProto) -> None:
    made.functions.append(function())
    call(made)


@case
def function_overloads(made: ModelProto) -> None:
    made.ir_version = 10
    made.functions.extend([function(overload="one"), function(overload="two")])
    call(made, "f", "one")
    call(made, "g", "two")


@case
def function_documentation(made: ModelProto) -> None:
    made.ir_version = 10
    made.functions.append(function())
    made.functions[0].doc_string = "about the function"
    made.functions[0].metadata_props.add(key="f", value="g")
    made.functions[0].value_info.append(helper.make_tensor_value_info("b", FLOAT, [4]))
    call(made)


@case
def function_attributes(made: ModelProto) -> None:
    made.functions.append(function())
    made.functions[0].attribute.append("needed")
    made.functions[0].attribute_proto.append(helper.make_attribute("default", 0.5))
    call(made)
    made.graph.node[-1].attribute.append(helper.make_attribute("needed", 1))


@case
def function_with_referring_attribute(made: ModelProto) -> None:
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.append(AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT))
    made.functions.append(
        helper.make_function("mine", "Twice", ["a"], ["b"], [node], [helper.make_opsetid("", 18)], ["slope"])
    )
    call(made)
    made.graph.node[-1].attribute.append(helper.make_attribute("slope", 0.1))


@case
def function_nobody_calls(made: ModelProto) -> None:
    made.opset_import.add(domain="mine", version=1)
    made.functions.append(function())


# Attributes of every type

SPARSE = helper.make_sparse_tensor(
    numpy_helper.from_array(np.array([1.5], np.float32), "values"), numpy_helper.from_array(np.array([2]), "at"), [4]
)
TENSOR = numpy_helper.from_array(np.arange(4, dtype=np.float32), "t")
TENSOR_TYPE = helper.make_tensor_type_proto(FLOAT, [2, None])
ATTRIBUTES: dict[str, object] = {
    "float": 0.1,
    "int": -(2**60),
    "string": "text",
    "string_that_is_no_text": b"\xff\xfe\x00",
    "tensor": TENSOR,
    "graph": body("g", "o"),
    "sparse_tensor": SPARSE,
    "type": TENSOR_TYPE,
    "floats": [0.1, 0.2],
    "ints": [1, 2],
    "strings": ["a", "b"],
    "tensors": [TENSOR, TENSOR],
    "graphs": [body("g", "o"), body("h", "p")],
    "sparse_tensors": [SPARSE, SPARSE],
    "types": [TENSOR_TYPE, helper.make_sequence_type_proto(TENSOR_TYPE)],
}


def with_attribute(value: object) -> Change:
    return lambda made: custom(made, own=value) and None


cases({f"attribute_{name}": with_attribute(value) for name, value in ATTRIBUTES.items()})


@case
def attribute_empty_list(made: ModelProto) -> None:
    custom(made).attribute.append(AttributeProto(name="none", type=AttributeProto.INTS))


# Tensors of every type and field

PACKED = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0", "INT4", "UINT4", "FLOAT4E2M1")
OTHERS = "FLOAT16 BFLOAT16 DOUBLE COMPLEX64 COMPLEX128 BOOL INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64 UINT64".split()
NEWEST = [name for name in ("INT2", "UINT2", "FLOAT6E2M3", "FLOAT6E3M2") if name in TensorProto.DataType.keys()]  # noqa: SIM118


def with_tensor_of(name: str) -> Change:
    def change(made: ModelProto) -> None:
        made.ir_version = 13
        dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(name))
        made.graph.initializer.append(numpy_helper.from_array(np.ones((2, 3)).astype(dtype), "typed"))

    return change


cases({f"tensor_{name.lower()}": with_tensor_of(name) for name in (*PACKED, *OTHERS, *NEWEST)})


FIELDS = {
    "float_data": (TensorProto.FLOAT, [0.5, 1.5]),
    "int32_data": (TensorProto.INT8, [1, -2]),
    "int64_data": (TensorProto.INT64, [1, -(2**50)]),
    "double_data": (TensorProto.DOUBLE, [0.1, 0.2]),
    "uint64_data": (TensorProto.UINT64, [1, 2**63]),
    "string_data": (TensorProto.STRING, [b"a", b"\xff"]),
}


def with_field(name: str) -> Change:
    def change(made: ModelProto) -> None:
        data_type, values = FIELDS[name]
        tensor = TensorProto(name="k", data_type=data_type, dims=[2])
        getattr(tensor, name).extend(values)
        constant(made, tensor)

    return change


cases({f"tensor_in_{name}": with_field(name) for name in FIELDS})


@case
def tensor_without_elements(made: ModelProto) -> None:
    constant(made, numpy_helper.from_array(np.zeros((0, 3), np.float32), "k"))


@case
def tensor_without_dimensions(made: ModelProto) -> None:
    constant(made, numpy_helper.from_array(np.float32(3), "k"))


@case
def tensor_not_finite(made: ModelProto) -> None:
    constant(made, numpy_helper.from_array(np.array([np.nan, np.inf, -0.0], np.float32), "k"))


@case
def sparse_initializer(made: ModelProto) -> None:
    sparse = made.graph.sparse_initializer.add()
    sparse.CopyFrom(SPARSE)
    sparse.values.name = "sparse"


# Types of values


def with_input_type(proto: onnx.TypeProto) -> Change:
    def change(made: ModelProto) -> None:
        custom(made).input.append("typed")
        made.graph.input.append(helper.make_value_info("typed", proto))

    return change


MAP = onnx.TypeProto(
    map_type=onnx.TypeProto.Map(key_type=TensorProto.STRING, value_type=helper.make_tensor_type_proto(FLOAT, []))
)
TYPES = {
    "sequence": helper.make_sequence_type_proto(TENSOR_TYPE),
    "optional": helper.make_optional_type_proto(TENSOR_TYPE),
    "optional_sequence": helper.make_optional_type_proto(helper.make_sequence_type_proto(TENSOR_TYPE)),
    "sparse": helper.make_sparse_tensor_type_proto(FLOAT, [4]),
    "map": MAP,
    "sequence_of_maps": helper.make_sequence_type_proto(MAP),
    "string": helper.make_tensor_type_proto(TensorProto.STRING, [None]),
    "float16": helper.make_tensor_type_proto(TensorProto.FLOAT16, [2]),
    "opaque": onnx.TypeProto(opaque_type=onnx.TypeProto.Opaque(domain="d", name="n")),
}
cases({f"type_{name}": with_input_type(proto) for name, proto in TYPES.items()})


@case
def sequence_values(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("SequenceConstruct", ["x", "r"], ["s"], "pack"))
    made.graph.output.append(helper.make_tensor_sequence_value_info("s", FLOAT, None))


@case
def optional_values(made: ModelProto) -> None:
    made.graph.node.append(helper.make_node("Optional", ["x"], ["o"], "maybe"))
    made.graph.output.append(helper.make_value_info("o", helper.make_optional_type_proto(TENSOR_TYPE)))


@case
def map_values(made: ModelProto) -> None:
    made.opset_import.add(domain="ai.onnx.ml", version=3)
    made.graph.input[0].type.tensor_type.shape.dim.add(dim_value=2)
    made.graph.output[0].type.tensor_type.ClearField("shape")
    made.graph.node.append(
        helper.make_node("ZipMap", ["x"], ["maps"], "zip", domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    )
    made.graph.output.append(helper.make_value_info("maps", TYPES["sequence_of_maps"]))


# Training


@case
def training_info(made: ModelProto) -> None:
    made.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "trained"))
    training = made.training_info.add()
    training.algorithm.CopyFrom(body("step", "new", inner="trained"))
    training.update_binding.add(key="trained", value="new")
    training.initialization.CopyFrom(
        helper.make_graph([], "start", [], [], [numpy_helper.from_array(np.zeros(4, np.float32), "zero")])
    )
    training.initialization_binding.add(key="trained", value="zero")


@case
def tensor_in_segments(made: ModelProto) -> None:
    """Segments are in the format, and nobody reads them: the tensor is in an attribute that nothing looks at."""
    tensor = TensorProto(name="part", data_type=FLOAT, dims=[4], float_data=[1.0, 2.0])
    tensor.segment.begin, tensor.segment.end = 0, 2
    made.training_info.add().algorithm.node.append(helper.make_node("Mystery", [], ["m"], own=tensor))
