"""The outputs of the original model, which all others are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from onnx_tucker.runtime.held import Held
from onnx_tucker.runtime.session import Feed

HELD = 2**28
"""Bytes of outputs that are held; where there are more, the model is run on those inputs again each time."""


class Reference:
    """A model's outputs on some inputs, each computed when it is first asked for.

    Args:
        session: the model.
        feeds: the inputs.
    """

    def __init__(self, session: ort.InferenceSession, feeds: Sequence[Feed]) -> None:
        self._session, self._feeds = session, feeds
        self._held: Held[list[Any]] = Held(HELD)

    def outputs(self, index: int) -> list[Any]:
        """All outputs on one of the inputs, in the order of the model.

        Raises:
            FAILURES: the model does not run on it.
        """
        known = self._held.get(index)
        if known is not None:
            return known
        found: list[Any] = self._session.run(None, dict(self._feeds[index]))
        arrays = [value for value in found if isinstance(value, np.ndarray)]
        if len(arrays) == len(found):
            self._held.keep(index, found, sum(array.nbytes for array in arrays))
        return found
