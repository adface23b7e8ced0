"""Tensors whose values are in files beside the model: where exactly, checked before anything is read.

A model from elsewhere may name any file. Only regular files within the model's own folder are read, and only where
offset, length, shape and type agree with each other and with the file.
"""

from __future__ import annotations

import math
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnx_tucker.errors import ModelError

PACKED = {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2, "FLOAT6E2M3": 6, "FLOAT6E3M2": 6}
"""Bits of the element types that do not fill bytes."""


class Region(NamedTuple):
    """Where a tensor's bytes are."""

    path: Path
    offset: int
    length: int


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the tensor's values are in a file beside the model."""
    return tensor.data_location == TensorProto.EXTERNAL


def byte_size(tensor: onnx.TensorProto) -> int:
    """Bytes that the tensor's values take as raw data.

    Raises:
        ValueError: the shape or the type has no such size.
    """
    if tensor.data_type in (TensorProto.UNDEFINED, TensorProto.STRING) or any(size < 0 for size in tensor.dims):
        raise ValueError("its shape and type have no size in bytes")
    bits = PACKED.get(TensorProto.DataType.Name(tensor.data_type))
    if bits is None:
        bits = 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return -(-math.prod(tensor.dims) * bits // 8)


def region(tensor: onnx.TensorProto, folder: Path) -> Region:
    """Where the values of an external tensor are.

    Raises:
        ModelError: they are not in a regular file within `folder`, or not as many as its shape needs.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        path = _inside(entries.get("location", ""), folder)
        return _checked(path, entries, byte_size(tensor))
    except (OSError, ValueError, KeyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        what = f"The values of tensor {tensor.name!r} are in {entries.get('location', '')!r}, which cannot be used"
        raise ModelError(f"{what}: {reason}; export the model again, or copy its data file into its folder.") from error


def _inside(location: str, folder: Path) -> Path:
    """The file that `location` names; ValueError where it is no regular file within the folder."""
    if not location:
        raise ValueError("it names no file")
    for pure in (PurePosixPath(location), PureWindowsPath(location)):
        if pure.is_absolute() or pure.drive or pure.root:
            raise ValueError("it is not relative to the model's folder")
        if ".." in pure.parts:
            raise ValueError("a path with '..' may lead out of the model's folder")
    path = folder / location
    if not path.resolve(strict=True).is_relative_to(folder.resolve()):
        raise ValueError("it is a link out of the model's folder")
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("it is no regular file")
    return path


def _checked(path: Path, entries: dict[str, str], needed: int) -> Region:
    """The region that the entries describe; ValueError where they do not fit the tensor or the file."""
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or needed)
    except ValueError:
        raise ValueError("its offset and length are no numbers") from None
    if offset < 0 or length != needed:
        raise ValueError(f"its shape and type need {needed} bytes, but it says {length} from {offset}")
    size = path.stat().st_size
    if offset + needed > size:
        raise ValueError(f"it ends after {size} bytes, before {offset + needed}")
    return Region(path, offset, needed)


def values(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """The tensor's values; `folder` is where the model's file is.

    Raises:
        ModelError: they cannot be read, or do not fit the tensor's shape and type.
    """
    try:
        if not is_external(tensor):
            return numpy_helper.to_array(tensor)
        path, offset, length = region(tensor, folder)
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length)
        inline = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=content)
        return numpy_helper.to_array(inline)
    except (OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"The values of tensor {tensor.name!r} cannot be read: {reason}") from error


def raw(tensor: onnx.TensorProto) -> bytes:
    """The bytes of a tensor that is not external, as raw data has them."""
    return tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data


def nothing_like(tensor: onnx.TensorProto) -> NDArray[Any]:
    """Zeros of the tensor's shape and type."""
    return np.zeros(tuple(tensor.dims), helper.tensor_dtype_to_np_dtype(tensor.data_type))
