"""Models from and to files.

An output appears whole or not at all: everything is written to temporary names in the target folders first, and
only when all of it is on disk do the files take their final names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from onnx_tucker.errors import ModelError, OutputError
from onnx_tucker.graph.nodes import tensors

LIMIT = 2**31 - 2**20
"""Bytes that fit into one protobuf message, with a margin for the graph around the weights."""

FAILURES = (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, TypeError, ValueError)
"""What onnx's checker and shape inference raise for a model that they do not accept."""

_MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer; fetch the real file with `git lfs pull`",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PK\x03\x04": "a zip archive, perhaps a PyTorch checkpoint; export the model to ONNX first",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"\x89HDF": "an HDF5 file, perhaps a Keras model; export the model to ONNX first",
    b"ORTM": "onnxruntime's own format; give the ONNX model that it was made from",
}


class Loaded(NamedTuple):
    """A model with all its weights, and the files beside it that some of them came from."""

    model: onnx.ModelProto
    data_files: frozenset[Path]


def load(path: Path) -> Loaded:
    """Reads a model with all its weights.

    Raises:
        ModelError: there is no such file, or it holds no ONNX model that can be read.
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
    files: set[Path] = set()
    for tensor in external_tensors(model):
        files.update(path.parent / entry.value for entry in tensor.external_data if entry.key == "location")
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.ClearField("data_location")
            del tensor.external_data[:]
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"The data of tensor {tensor.name!r} beside {path} cannot be read: {reason}") from error
    if sum(len(t.raw_data) for t in tensors(model)) > LIMIT:
        raise ModelError(f"{path} has more than 2 GB of weights, which this version cannot handle.")
    return Loaded(model, frozenset(files))


def invalid(model: onnx.ModelProto) -> str | None:
    """Why a model does not pass onnx's full check, in a line; None if it does."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except FAILURES as error:
        return str(error).strip().splitlines()[0]
    return None


def external_tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """The tensors, in all scopes, whose values are in files beside the model."""
    return [tensor for tensor in tensors(model) if external_data_helper.uses_external_data(tensor)]


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


def model_files(model: onnx.ModelProto, path: Path, external: bool) -> dict[Path, bytes]:
    """The files that a model is saved as: one, or two with the weights in `{path}.data`.

    Args:
        model: the model, all weights inside; it is not changed.
        path: the model's own file.
        external: whether weights of 1 KiB and more go to the data file.
    """
    if not external:
        return {path: model.SerializeToString(deterministic=True)}
    slim = onnx.ModelProto()
    slim.CopyFrom(model)
    blob = bytearray()
    for tensor in slim.graph.initializer:
        if len(tensor.raw_data) < 1024:
            continue
        blob += b"\0" * (-len(blob) % 4096)  # aligned, so that the file can be mapped into memory
        external_data_helper.set_external_data(tensor, f"{path.name}.data", len(blob), len(tensor.raw_data))
        blob += tensor.raw_data
        tensor.ClearField("raw_data")
    return {path.with_name(f"{path.name}.data"): bytes(blob), path: slim.SerializeToString(deterministic=True)}


def check_target(path: Path, overwrite: bool) -> None:
    """Finds out before any work whether a file can be written.

    Raises:
        OutputError: it exists and may not be replaced, is no regular file, or its folder is missing or read-only.
    """
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.") from error
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file in it.")
    if os.path.lexists(path) and not overwrite:
        raise OutputError(f"{path} exists; give --overwrite to replace it.")
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is a device or pipe, which cannot be replaced by a file.")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"There is no folder {folder} to write {path.name} to.")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{path} cannot be written: the folder {folder} is read-only.")


def write_files(files: Mapping[Path, bytes]) -> None:
    """Writes all files, each whole or not at all; the last one named appears last.

    A link is followed, and a file that is replaced hands on its permissions.

    Raises:
        OutputError: one cannot be written; its text says whether others have been.
    """
    written: dict[Path, Path] = {}
    replaced: list[str] = []
    try:
        for path, data in files.items():
            target = path.resolve()
            mode = target.stat().st_mode if target.exists() else 0o666 & ~_umask()  # mkstemp's files are private
            handle, name = tempfile.mkstemp(prefix=f".{target.name[:100]}.", suffix=".tmp", dir=target.parent)
            written[path] = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            written[path].chmod(mode)
        for path, temporary in written.items():
            temporary.replace(path.resolve())
            replaced.append(path.name)
    except OSError as error:
        so_far = f"only {', '.join(replaced)} was written" if replaced else "nothing was changed"
        raise OutputError(f"{path} cannot be written: {error.strerror}; {so_far}.") from error
    finally:
        for temporary in written.values():
            with suppress(OSError):
                temporary.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
