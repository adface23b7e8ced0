"""Rules for nodes: a rank policy each, and perhaps a method, from `--ranks` or a file."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

from onnx_tucker.errors import PlanError, UsageError
from onnx_tucker.factor import METHODS
from onnx_tucker.rank import POLICIES
from onnx_tucker.rank.fixed import Fixed
from onnx_tucker.rank.policy import Policy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_ENDINGS = (".toml", ".json")


@dataclass(frozen=True)
class Rule:
    """What a ranks setting says of one node: a policy (None keeps the node) and perhaps one method.

    `exact` marks ranks that were written for this very node, so that one above its size is an error and not clipped.
    """

    policy: Policy | None
    method: str | None = None
    exact: bool = False


@dataclass(frozen=True)
class Rules:
    """Rules by node name or glob; exact names go before globs, globs in the order given."""

    entries: Mapping[str, Rule]

    def rule(self, name: str) -> Rule | None:
        """The rule of a node, or None where no entry names it."""
        if name in self.entries:
            return self.entries[name]
        return next((r for pattern, r in self.entries.items() if fnmatch.fnmatchcase(name, pattern)), None)

    def unused(self, names: set[str]) -> list[str]:
        """Entries that match none of the nodes `names`; one for all nodes may have none to match."""
        return [e for e in self.entries if e != "*" and e not in names and not fnmatch.filter(names, e)]


def parse_ranks(text: str) -> Rules:
    """Reads a `--ranks` setting: a policy for all nodes, or the path of a TOML or JSON file with one for each.

    Raises:
        UsageError: neither a policy nor a file with a known ending.
        PlanError: the file cannot be read or has a malformed entry.
    """
    if text.endswith(FILE_ENDINGS):
        return _read_file(Path(text))
    try:
        return Rules({"*": Rule(_policy(text, "IN,OUT, auto, or a .toml or .json file"))})
    except ValueError as error:
        raise UsageError(f"--ranks {text}: {error}.") from error


def _policy(text: str, last: str = "IN,OUT, or keep") -> Policy:
    """A policy from its text; ValueError with the reason where it is none, which ends in the last of what it may be."""
    name, colon, argument = text.partition(":")
    if name in POLICIES:
        return POLICIES[name](argument if colon else None)
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        known = f"vbmf, vbmf:W, energy:E, ratio:R, full, a number, {last}"
        raise ValueError(f"unknown policy {text!r}; it is one of {known}")
    if min(numbers) < 1:
        raise ValueError("a rank is at least 1")
    return Fixed(numbers[0], numbers[-1])


def _read_file(path: Path) -> Rules:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PlanError(f"The ranks file {path} cannot be read: {reason}.") from error
    if not isinstance(document, dict):
        raise PlanError(f"The ranks file {path} is no table of node names and ranks.")
    return parse_table(document, f"The ranks file {path}")


def parse_table(table: Mapping[str, Any], source: str = "The ranks") -> Rules:
    """Reads ranks by node name or glob, as files of them hold them.

    Args:
        table: of each node a policy, a rank, a pair of ranks, "keep", or a table of ranks and method.
        source: what messages call it.

    Raises:
        PlanError: an entry is malformed.
    """
    entries = {}
    for name, value in table.items():
        try:
            entries[str(name)] = _entry(str(name), value)
        except ValueError as error:
            raise PlanError(f"{source}, entry {name!r}: {error}.") from error
    return Rules(entries)


def _entry(name: str, value: Any) -> Rule:
    method = None
    if isinstance(value, Mapping):
        unknown = set(value) - {"ranks", "method"}
        if unknown or "ranks" not in value:
            raise ValueError("a table has the keys ranks and, if wanted, method")
        method, value = value.get("method"), value["ranks"]
        if method is not None and (not isinstance(method, str) or method not in METHODS):
            raise ValueError(f"unknown method {method!r}; it is one of {', '.join(METHODS)}")
    if isinstance(value, str) and value == "keep":
        return Rule(None)
    numbers = value if isinstance(value, list | tuple) else [value]
    if all(isinstance(n, Integral) and not isinstance(n, bool) for n in numbers):
        value = ",".join(map(str, numbers))
    if not isinstance(value, str):
        raise ValueError(f'{value!r} is no rank, pair of ranks, policy or "keep"')
    policy = _policy(value)
    return Rule(policy, method, exact=isinstance(policy, Fixed) and not any(c in name for c in "*?["))
