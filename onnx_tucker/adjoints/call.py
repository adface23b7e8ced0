"""A node as it was run, from which rules compute the derivatives with respect to its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

Value = NDArray[Any]


class Run(Protocol):
    """Runs an operator on values by onnxruntime."""

    def __call__(
        self, inputs: Sequence[Value | None], op: str = "", outputs: int = 0, **attributes: Any
    ) -> list[Value]:
        """What comes out.

        Args:
            inputs: what goes in; None for what is left out.
            op: a standard operator, with its attributes; the node itself unless given.
            outputs: how many are asked for; as many as the node has unless given.
            **attributes: of the operator.
        """
        ...


class Call(NamedTuple):
    """A node as it was run.

    Attributes:
        op: its operator.
        attributes: of it.
        opset: the version of its operator's set.
        inputs: what went in; None for what is left out.
        outputs: what came out; None for what nobody takes.
        run: runs it, or other operators.
    """

    op: str
    attributes: Mapping[str, Any]
    opset: int
    inputs: Sequence[Value | None]
    outputs: Sequence[Value | None]
    run: Run

    def given(self, index: int) -> Value:
        """An input that is there.

        Raises:
            ValueError: it is not.
        """
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise ValueError(f"a {self.op} has no input {index}")
        return found

    @property
    def made(self) -> Value:
        """The first output.

        Raises:
            ValueError: nobody takes it.
        """
        if self.outputs[0] is None:
            raise ValueError(f"nobody takes what a {self.op} gives")
        return self.outputs[0]


Rule = Callable[[Call, Sequence[Value | None], int], Value]
"""From the derivatives with respect to the outputs, those with respect to one of the inputs.

It raises a ValueError where the node does something that it does not know.
"""


def reduced(change: Value, shape: Sequence[int]) -> Value:
    """Derivatives with respect to a value that was repeated to a larger shape: the sums over what is repeated."""
    extra = change.ndim - len(shape)
    axes = (*range(extra), *(extra + i for i, n in enumerate(shape) if n == 1 and change.shape[extra + i] > 1))
    return change.sum(axis=axes, keepdims=True).reshape(shape) if axes else change


def single(changes: Sequence[Value | None]) -> Value:
    """The derivatives with respect to the first output.

    Raises:
        ValueError: there are some with respect to others too.
    """
    if changes[0] is None or any(change is not None for change in changes[1:]):
        raise ValueError("derivatives of other outputs are needed")
    return changes[0]
