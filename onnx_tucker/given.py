"""Data as it is given: paths, arrays, batches of them, or what gives one batch after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from onnx_tucker.errors import UsageError
from onnx_tucker.options import PathLike

WHOLE = (str, Path, Mapping)
"""Parts of the data that are no arrays themselves."""


def parts_of(given: Any) -> tuple[PathLike | Mapping[str, Any], ...]:
    """Paths or batches of arrays, however they were given; a batch of a single input may have no name.

    Raises:
        UsageError: they are neither, or both.
    """
    if given is None:
        return ()
    if callable(getattr(given, "get_next", None)):
        given = _batches(given)
    try:
        parts = (given,) if isinstance(given, WHOLE) or _is_array(given) else tuple(given)
    except TypeError:
        parts = (given,)
    parts = tuple({"": part} if _is_array(part) else part for part in parts)
    if not parts and not isinstance(given, list | tuple):
        raise UsageError("The data has no samples: what gives them is at its end.")
    if not any(all(isinstance(part, kinds) for part in parts) for kinds in (str | Path, Mapping)):
        raise UsageError("The data is neither paths of .npz or .npy files nor arrays by input name.")
    return parts


def _batches(reader: Any) -> Iterator[Any]:
    """What a reader gives until that is None; `iter` would compare arrays with it value by value."""
    while (batch := reader.get_next()) is not None:
        yield batch


def _is_array(value: Any) -> bool:
    """Whether it is an array, of numpy or another library."""
    return hasattr(value, "__array__") and not isinstance(value, WHOLE)
