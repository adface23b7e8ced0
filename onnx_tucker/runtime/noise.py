"""Seeded noise to run a model on where there is no data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.errors import UsageError
from onnx_tucker.runtime.batches import Batches, Inputs, aligned
from onnx_tucker.runtime.session import TEXT, TYPES

NOISE_VALUES = 2**28
"""Values that a random input may have; none that is meant to be run on a CPU has more."""


def drawn(session: ort.InferenceSession, shapes: Mapping[str, tuple[int, ...]], seed: int, feeds: int) -> Inputs:
    """Seeded noise: standard normal, and zeros and ones for integers.

    Args:
        session: the model.
        shapes: shape of every input.
        seed: of the noise.
        feeds: how many feeds.

    Raises:
        UsageError: the shape or type of an input is not known, or they would be too large.
    """
    rng = np.random.default_rng(seed)
    values = sum(math.prod(shapes.get(value.name, ())) for value in session.get_inputs())
    if values > NOISE_VALUES:
        raise UsageError(
            f"Random inputs would have {values:.2g} values; give smaller ones by --input-shape, or --data."
        )

    def draw(value: Any) -> NDArray[Any]:
        if value.type not in TYPES:
            advice = "; give --data" if value.type == TEXT else ""
            raise UsageError(f"The input {value.name} is a {value.type}, which cannot be made up{advice}.")
        if value.name not in shapes:
            sizes = ", ".join("?" if size is None else str(size) for size in value.shape)
            shape, free = (
                (f" ({sizes})", "its free sizes with --dim NAME=SIZE, or all with") if sizes else ("", "it with")
            )
            raise UsageError(
                f"The shape{shape} of input {value.name} is not known; give {free} --input-shape {value.name}:1,2,3, "
                "or give --data."
            )
        dtype = np.dtype(TYPES[value.type])
        noise = np.asarray(rng.standard_normal(shapes[value.name]))  # a scalar is no array by itself
        return noise.astype(dtype) if dtype.kind == "f" else np.asarray(noise > 0, dtype)

    try:
        made = [{value.name: draw(value) for value in session.get_inputs()} for _ in range(feeds)]
    except (MemoryError, ValueError) as error:
        raise UsageError(f"Random inputs cannot be made: {error}.") from error
    along = frozenset(made[0]) if aligned(made[0]) else frozenset[str]()
    batch = len(next(iter(made[0].values()))) if along else 1
    return Inputs.undivided("random", Batches(feeds * batch, made, (), along))
