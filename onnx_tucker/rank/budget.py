"""What the result of `--ranks auto` may have of the original's cost."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_tucker.errors import UsageError
from onnx_tucker.rank.policy import share

QUANTITIES = ("flops", "params")


@dataclass(frozen=True)
class Budget:
    """A share of a cost.

    Attributes:
        of: one of `QUANTITIES`.
        share: from 0 to 1.
    """

    of: str
    share: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads a `--budget` setting.

        Raises:
            UsageError: it is none.
        """
        of, _, rest = text.partition(":")
        if of not in QUANTITIES:
            raise UsageError(f"--budget {text}: it is {' or '.join(f'{q}:S' for q in QUANTITIES)}, S from 0 to 1.")
        try:
            return cls(of, share(rest, of))
        except ValueError as error:
            raise UsageError(f"--budget {text}: {error}.") from error

    def __str__(self) -> str:
        return f"{self.of}:{self.share:g}"
