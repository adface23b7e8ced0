from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.errors import ModelError
from onnx_tucker.graph import external

TYPES = [name for name in TensorProto.DataType.keys() if name not in ("UNDEFINED", "STRING")]  # noqa: SIM118


@pytest.mark.parametrize("name", TYPES)
def test_sizes_and_values_of_every_type(name: str, tmp_path: Path) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(name))
    inside = numpy_helper.from_array(np.ones((3, 3)).astype(dtype), "t")
    assert external.byte_size(inside) == len(inside.raw_data) == len(external.raw(inside))
    (tmp_path / "t.bin").write_bytes(b"123" + inside.raw_data)
    outside = TensorProto(name="t", data_type=inside.data_type, dims=inside.dims, data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="t.bin")
    outside.external_data.add(key="offset", value="3")
    assert external.region(outside, tmp_path).length == len(inside.raw_data)
    assert external.values(outside, tmp_path).tobytes() == numpy_helper.to_array(inside).tobytes()


def test_values_in_typed_fields_have_bytes_too() -> None:
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0])
    assert external.raw(tensor) == np.array([1, 2], np.float32).tobytes()


def test_values_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[5], raw_data=b"123")
    with pytest.raises(ModelError, match="'t' cannot be read"):
        external.values(tensor, tmp_path)
    with pytest.raises(ValueError, match="no size"):
        external.byte_size(TensorProto(data_type=TensorProto.FLOAT, dims=[-1]))
