"""Pure rank policies, chosen by `--ranks`, for the whole model or by node from a file.

A new policy is one file, one entry in `POLICIES`, and one test file.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx_tucker.rank.energy import Energy
from onnx_tucker.rank.fixed import Full
from onnx_tucker.rank.policy import Policy, share
from onnx_tucker.rank.ratio import Ratio
from onnx_tucker.rank.vbmf import Vbmf


def _vbmf(argument: str | None) -> Policy:
    return Vbmf() if argument is None else Vbmf(share(argument, "vbmf"))


def _energy(argument: str | None) -> Policy:
    return Energy(share(argument or "", "energy"))


def _ratio(argument: str | None) -> Policy:
    return Ratio(share(argument or "", "ratio"))


def _full(argument: str | None) -> Policy:
    if argument is not None:
        raise ValueError("full takes no argument")
    return Full()


POLICIES: dict[str, Callable[[str | None], Policy]] = {
    "vbmf": _vbmf,
    "energy": _energy,
    "ratio": _ratio,
    "full": _full,
}
