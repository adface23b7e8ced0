"""How errors of nodes may add up to one of the model.

That is not known. These are the laws that are tried, and all that matters of one is which allocation it leads to.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnx_tucker.search.curve import Curve

logger = logging.getLogger(__name__)

CLEARLY = 1.01
"""How much closer a law has to bring the model than a simpler one, or none: less may be the samples' doing."""
MOST = 0.999
"""The largest share of a node's output that counts as lost."""


@dataclass(frozen=True)
class Law:
    """How errors of nodes may add up to one of the model.

    Attributes:
        tilt: how far the last node counts more than the first, as a power of e: what is lost early, the nodes behind
            make up for.
        power: how far it counts what a node's error alone does to the model's outputs.
        logarithmic: whether a chain of layers that each keep the share 1 - e of the signal keeps the product of those;
            else squared errors are summed.
    """

    tilt: float = 0.0
    power: float = 0.0
    logarithmic: bool = False

    def of(self, curves: Sequence[Curve]) -> list[Curve]:
        """Curves whose weighted errors it takes to add up."""
        last = max(len(curves) - 1, 1)
        return [
            replace(
                curve,
                points=[replace(point, error=self._error(point.error)) for point in curve.points],
                weight=math.exp(self.tilt * i / last) * curve.weight**self.power,
            )
            for i, curve in enumerate(curves)
        ]

    def _error(self, error: float) -> float:
        return -math.log1p(-min(error, MOST)) if self.logarithmic else error


CHANGES: Sequence[tuple[str, Sequence[Any]]] = (
    ("power", (0.5, 1.0)),
    ("tilt", (1.0, 2.0)),
    ("tilt", (-1.0, -2.0)),
    ("logarithmic", (True,)),
)
"""What is tried of the law, each on top of what has helped so far, and more of a tilt only where less did no harm; what
has helped one way is not tried the other way.
"""


def best(curves: Sequence[Curve], missed: Callable[[Sequence[Curve]], float]) -> tuple[Law, float]:
    """The law whose allocation comes closest to the original, and how far that is from it.

    Args:
        curves: as they are.
        missed: the error of the outputs of the model with the allocation for some curves.
    """
    law = Law()
    least = missed(law.of(curves))
    logger.info("%s: error %.4g", law, least)
    for name, values in CHANGES:
        if getattr(law, name):
            continue
        for value in values:
            other = replace(law, **{name: value})
            error = missed(other.of(curves))
            logger.info("%s: error %.4g", other, error)
            if error * CLEARLY < least:
                law, least = other, error
            elif name == "tilt" and error > least:  # and not the same allocation
                break
    return law, least
