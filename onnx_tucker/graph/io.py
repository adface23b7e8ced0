"""Models from and to files."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import numpy_helper

from onnx_tucker.errors import ModelError
from onnx_tucker.graph import external
from onnx_tucker.graph.check import weight_bytes
from onnx_tucker.graph.nodes import bodies, tensors

_MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the real file with `git lfs pull`",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive, perhaps a PyTorch checkpoint; export the model to ONNX first",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF": "an HDF5 file, perhaps a Keras model; export the model to ONNX first",
    b"ORTM": "onnxruntime's own format; give the ONNX model that it was made from",
}

BLOCK = 2**24
"""Bytes that are copied at a time."""
SMALLEST = 1024
"""Bytes of the smallest tensor that goes to a data file."""
PAGE, LINE, PAGED = 4096, 64, 2**16
"""Tensors of so many bytes start at a page of a data file, so that it can be mapped into memory, others at a line."""
NOTED = 128
"""Bytes, at most, that a model takes to say where the values of a tensor are, besides the name of the file."""


class Loaded(NamedTuple):
    """A model, the folder that its external data is relative to, and the files there that hold some of it."""

    model: onnx.ModelProto
    folder: Path
    data_files: frozenset[Path]


def load(path: Path) -> Loaded:
    """Reads a model; weights in other files stay there.

    Raises:
        ModelError: there is no such file, it holds no ONNX model that can be read, or its data files do not fit it.
    """
    data = _read(path)
    for magic, what in _MAGIC.items():
        if data.startswith(magic) or data[4:8] == magic:
            raise ModelError(f"{path} is no ONNX model but {what}.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{path} is no ONNX model, or a damaged one; export or copy it again.") from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path} holds no graph; it is no ONNX model, or a damaged one.")
    if not all(_readable(graph) for graph in (model.graph, *model.functions)):
        raise ModelError(f"{path} is a damaged model: it has names that are no text; export or copy it again.")
    folder = _followed(model, path)
    regions = [external.region(tensor, folder) for tensor in external_tensors(model)]
    return Loaded(model, folder, frozenset(region.path for region in regions))


def _followed(model: onnx.ModelProto, path: Path) -> Path:
    """The folder that external data is relative to.

    Where a model and all its data files are links into one folder, as in caches of downloads, it is that one, and the
    model is made to name the files there.
    """
    entries = [e for tensor in external_tensors(model) for e in tensor.external_data if e.key == "location"]
    names = {entry.value for entry in entries}
    if not path.is_symlink() or any(not name or PurePath(name).name != name for name in names):
        return path.parent
    folder, links = path.resolve().parent, {name: path.with_name(name) for name in names}
    if not all(link.is_symlink() and link.resolve().parent == folder for link in links.values()):
        return path.parent
    for entry in entries:
        entry.value = links[entry.value].resolve().name
    return folder


def _readable(graph: Any) -> bool:
    """Whether all names in a graph or function, and in the bodies in it, are text: the format allows any bytes."""
    names = [graph.name, *(getattr(part, "name", part) for part in (*graph.input, *graph.output, *graph.value_info))]
    if isinstance(graph, onnx.FunctionProto):
        names += [graph.domain, graph.overload]
    else:
        names += [tensor.name for tensor in graph.initializer]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, node.doc_string, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    if not all(isinstance(name, str) for name in names):
        return False
    return all(_readable(body) for node in graph.node for attribute in node.attribute for body in bodies(attribute))


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors, in all scopes, whose values are in files beside the model."""
    return [tensor for tensor in tensors(model) if external.is_external(tensor)]


def read_in(model: onnx.ModelProto, folder: Path) -> None:
    """Reads the weights that are in files beside a model into it, in place.

    Raises:
        ModelError: they cannot be read.
    """
    for tensor in external_tensors(model):
        content = external.raw(numpy_helper.from_array(external.values(tensor, folder)))
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = content


def file_bytes(model: onnx.ModelProto, *, apart: bool) -> int:
    """Bytes of all files of a model, with its weights in it or beside it; at most, if they are still to be moved out.

    Args:
        model: as it is now.
        apart: whether its weights will be in a data file.
    """
    moved = [external.byte_size(tensor) for tensor in movable(model)] if apart else []
    try:
        message = model.ByteSize()
    except EncodeError:  # too large for one, until its weights are moved out
        graph, inside = model.graph, weight_bytes(model, inside=True)
        parts = (*graph.node, *graph.value_info, *graph.input, *graph.output, *model.functions)
        message = inside + sum(part.ByteSize() for part in parts) + NOTED * len(graph.initializer)
    return (
        message
        + sum(external.byte_size(tensor) for tensor in external_tensors(model))
        + sum(_alignment(size) - 1 + NOTED for size in moved)
    )


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"There is no file {path}.") from error
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder; give the .onnx file in it.") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    if not data:
        raise ModelError(f"{path} is empty.")
    return data


def data_of(path: Path) -> set[Path]:
    """The data files of the model at `path`; none where there is no model with data."""
    try:
        return set(load(path).data_files) if path.is_file() else set()
    except ModelError:
        return set()


def movable(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors that go to a data file: those that are in one, and large initializers of the main graph."""
    inside = (tensor for tensor in model.graph.initializer if not external.is_external(tensor))
    large = [t for t in inside if t.data_type != onnx.TensorProto.STRING and external.byte_size(t) >= SMALLEST]
    return [*external_tensors(model), *large]


def move_out(model: onnx.ModelProto, folder: Path, location: str, file: BinaryIO) -> None:
    """Writes weights to a data file, one at a time, and makes the model refer to it.

    Args:
        model: is changed.
        folder: what external data of it was relative to until now.
        location: name of the data file, beside the model's.
        file: the data file, empty.
    """
    offsets: dict[external.Region, int] = {}  # tensors may share a region
    for tensor in movable(model):
        if not external.is_external(tensor):
            content = external.raw(tensor)
            offset = _align(file, len(content))
            file.write(content)
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)
            _refer(tensor, location, offset, len(content))
            continue
        region = external.region(tensor, folder)
        if region not in offsets:
            offsets[region] = _align(file, region.length)
            _copy(region, file)
        tensor.ClearField("raw_data")
        _refer(tensor, location, offsets[region], region.length)


def _alignment(size: int) -> int:
    """Where a tensor of so many bytes may start: at multiples of this."""
    return PAGE if size >= PAGED else LINE


def _align(file: BinaryIO, size: int) -> int:
    """Goes on to the next place where a tensor of so many bytes may start."""
    file.write(b"\0" * (-file.tell() % _alignment(size)))
    return file.tell()


def _refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Notes where a tensor's values are; what else is said of its data stays."""
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {entry.key: entry for entry in tensor.external_data}
    if "checksum" in entries:  # of the old file
        tensor.external_data.remove(entries["checksum"])
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        entry = entries.get(key) or tensor.external_data.add(key=key)
        entry.value = str(value)


def _copy(region: external.Region, target: BinaryIO) -> None:
    with region.path.open("rb") as source:
        source.seek(region.offset)
        left = region.length
        while left:
            block = source.read(min(BLOCK, left))
            if not block:
                raise ModelError(f"{region.path} has become shorter while it was read; run it again.")
            target.write(block)
            left -= len(block)
