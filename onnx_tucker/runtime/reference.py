"""What the original model gives, which all others are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

from onnx_tucker.runtime.held import Held
from onnx_tucker.runtime.session import Feed, output_names

HELD = 2**28
"""Bytes of outputs that are held; where there are more, the model is run on those inputs again each time."""


class Reference:
    """A model's outputs on some inputs, each computed when it is first asked for.

    Args:
        session: the model.
        feeds: the inputs.
        parts: names of those of its outputs that some output of a model follows from, by the name of that.

    Attributes:
        names: of the outputs, in the order of the model.
        parts: the same as given.
    """

    def __init__(
        self, session: ort.InferenceSession, feeds: Sequence[Feed], parts: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._session, self._feeds = session, feeds
        self.names, self.parts = output_names(session), parts or {}
        self._held: Held[list[Any]] = Held(HELD)

    def on(self, feeds: Sequence[Feed]) -> Reference:
        """The same model on other inputs."""
        return Reference(self._session, feeds, self.parts)

    def outputs(self, index: int) -> list[Any]:
        """All outputs on one of the inputs.

        Raises:
            FAILURES: the model does not run on it.
        """
        known = self._held.get(index)
        if known is not None:
            return known
        found = self.run(self._feeds[index])
        arrays = [value for value in found if isinstance(value, np.ndarray)]
        if len(arrays) == len(found):
            self._held.keep(index, found, sum(array.nbytes for array in arrays))
        return found

    def run(self, feed: Feed) -> list[Any]:
        """All outputs on some other input.

        Raises:
            FAILURES: the model does not run on it.
        """
        found: list[Any] = self._session.run(None, dict(feed))
        return found
