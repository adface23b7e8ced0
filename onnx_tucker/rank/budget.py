"""What the result of `--ranks auto` may have of the original's cost."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_tucker.errors import UsageError
from onnx_tucker.rank.policy import share

QUANTITIES = ("flops", "params", "bytes", "time")


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
    def parse(cls, text: str, whole: str) -> Budget:
        """Reads one budget of a `--budget` setting.

        Args:
            text: the budget.
            whole: what it is a part of, or all of.

        Raises:
            UsageError: it is none.
        """
        given = f"{text} in {whole}, at whose commas budgets end" if whole != text else text
        of, _, rest = text.partition(":")
        if of not in QUANTITIES:
            known = f"{', '.join(f'{q}:S' for q in QUANTITIES[:-1])} or {QUANTITIES[-1]}:S"
            raise UsageError(f"--budget {given}: it is {known}, S from 0 to 1.")
        try:
            return cls(of, share(rest, of))
        except ValueError as error:
            raise UsageError(f"--budget {given}: {error}.") from error

    def __str__(self) -> str:
        return f"{self.of}:{self.share:g}"


def parse_budgets(texts: tuple[str, ...]) -> tuple[Budget, ...]:
    """Reads a `--budget` setting; of several of one quantity, the smallest.

    Raises:
        UsageError: one of them is none.
    """
    least: dict[str, Budget] = {}
    for budget in (Budget.parse(part, text) for text in texts for part in text.split(",")):
        least[budget.of] = min(least.get(budget.of, budget), budget, key=lambda b: b.share)
    return tuple(least.values())
