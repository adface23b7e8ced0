"""How a factorised model is trained."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_tucker.errors import UsageError
from onnx_tucker.options import require_range

LOSSES = ("distill", "labels", "both")


@dataclass(frozen=True)
class Course:
    """How to train.

    Attributes:
        epochs: passes over the samples, at most.
        minutes: time to take, at most; there are fewer epochs where so many would take longer.
        learning_rate: of Muon and AdamW, relative to the size of each weight, from which it falls to 0 as a cosine.
        batch: samples of a step, at most, where the model's first dimension is free.
        loss: what is learnt, one of `LOSSES`: what the original gives, labels, or both.
        blocks: whether what lies between two linear nodes is trained by itself, one after another.
        seed: of the order of samples, and of how they are varied.
    """

    epochs: int = 240
    minutes: float = 10.0
    learning_rate: float = 1e-2
    batch: int = 16
    loss: str = "distill"
    blocks: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            UsageError: one is out of its range.
        """
        require_range("epochs", self.epochs, 1, 1e6, whole=True)
        require_range("minutes", self.minutes, 0, 1e6, whole=False)
        require_range("learning_rate", self.learning_rate, 0, 10, whole=False)
        require_range("batch", self.batch, 1, 1e6, whole=True)
        if self.loss not in LOSSES:
            raise UsageError(f"--loss {self.loss}: it is one of {', '.join(LOSSES)}.")
        if self.blocks and self.loss != "distill":
            raise UsageError("--blocks matches what the original gives block by block, so --loss is distill.")

    @property
    def distilled(self) -> bool:
        """Whether what the original gives is learnt."""
        return self.loss != "labels"
