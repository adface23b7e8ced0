"""Files of samples, as numpy writes them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import MAGIC_PREFIX
from numpy.typing import NDArray

from onnx_tucker.errors import DataError

LARGE = 2**26
"""Bytes of a `.npy` file from which on samples are read from it when they are used."""


def read(paths: Sequence[Path]) -> list[dict[str, NDArray[Any]]]:
    """Reads `.npz` (keys are input names) and `.npy` files and folders of them, each of which is a part of the data.

    An array of a `.npy` file, which has no keys, has the empty name.

    Raises:
        DataError: a file cannot be read.
    """
    return [_load(file) for path in paths for file in files(path)]


def files(path: Path) -> list[Path]:
    """The file, or those of a folder.

    Raises:
        DataError: there are none in the folder.
    """
    if not path.is_dir():
        return [path]
    named = sorted(p for p in path.iterdir() if p.suffix.lower() in (".npz", ".npy"))
    found = [p for p in named if p.is_file() and not p.name.startswith(".")]  # hidden ones are a system's own
    if not found:
        raise DataError(f"The folder {path} holds no .npz or .npy file.")
    return found


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            large = file.seek(0, io.SEEK_END) >= LARGE
            file.seek(0)
            if large and file.read(len(MAGIC_PREFIX)) == MAGIC_PREFIX:
                return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"": content}
            with content:
                arrays = {name: content[name] for name in content.files}
        if not arrays:
            raise DataError(f"The data file {path} has no arrays in it.")
        return arrays
    except FileNotFoundError as error:
        raise DataError(f"There is no data file {path}.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(
            f"The data file {path} cannot be read, as it is damaged or cut short ({error}); copy it anew."
        ) from error
    except (OSError, ValueError, KeyError, MemoryError, RuntimeError) as error:  # the last where it is encrypted
        if "pickled" in str(error):  # numpy takes whatever it does not know for that
            raise DataError(
                f"The data file {path} cannot be read: it is neither .npz nor .npy, as numpy writes them."
            ) from error
        raise DataError(f"The data file {path} cannot be read as .npz or .npy: {error}") from error
