from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_tucker.errors import PlanError
from onnx_tucker.rank.fixed import Fixed
from onnx_tucker.rank.rules import Rule, parse_ranks, parse_table
from onnx_tucker.rank.vbmf import Vbmf

TOML = """
"layer/*" = "vbmf"
"layer/1" = 5
pair = [2, 3]
named = { method = "tucker1_in", ranks = 4 }
same = { ranks = "8,16" }
out = "keep"
"x[1]" = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "ranks.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_entries(file: Path) -> None:
    rules = parse_ranks(str(file))
    assert rules.rule("layer/1") == Rule(Fixed(5, 5), exact=True)
    assert rules.rule("layer/2") == Rule(Vbmf())
    assert rules.rule("pair") == Rule(Fixed(2, 3), exact=True)
    assert rules.rule("named") == Rule(Fixed(4, 4), "tucker1_in", exact=True)
    assert rules.rule("same") == Rule(Fixed(8, 16), exact=True)
    assert rules.rule("out") == Rule(None)
    assert rules.rule("x[1]") is not None  # an exact name, though it looks like a glob
    assert rules.rule("other") is None


def test_entries_that_match_nothing_are_known(file: Path) -> None:
    rules = parse_ranks(str(file))
    assert rules.unused({"layer/3", "pair", "named", "same", "out", "x[1]"}) == ["layer/1"]


def test_json_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "ranks.json"
    path.write_text('{"a": [2, 3], "b": {"method": "svd", "ranks": "energy:0.5"}, "c": "keep"}', encoding="utf-8")
    rules = parse_ranks(str(path))
    assert rules.rule("a") == Rule(Fixed(2, 3), exact=True)
    assert rules.rule("c") == Rule(None)


def test_tables_in_python_may_hold_tuples() -> None:
    rules = parse_table({"a": (2, np.int64(3)), "b*": {"method": "svd", "ranks": (4,)}, "c": "keep"})
    assert rules.rule("a") == Rule(Fixed(2, 3), exact=True)
    assert rules.rule("b1") == Rule(Fixed(4, 4), "svd")
    assert rules.rule("c") == Rule(None)
    with pytest.raises(PlanError, match=r"^The ranks, entry 'a': .*\.$"):
        parse_table({"a": 1.5})
    with pytest.raises(PlanError, match=r"entry 'a': array\(\[3, 3\]\) is no rank"):
        parse_table({"a": np.array([3, 3])})


@pytest.mark.parametrize(
    "text",
    [
        "a = ",
        "a = true",
        "a = 1.5",
        "a = [1, 2, 3]",
        "a = []",
        'a = "magic"',
        "a = 0",
        "a = { rank = 3 }",
        'a = { ranks = 3, method = "magic" }',
        "a = { ranks = [1, 2.5] }",
        "[a]\nb = 1",
    ],
)
def test_malformed_files_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ranks.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PlanError, match=r"^The ranks file .*\.$"):
        parse_ranks(str(path))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(PlanError, match=r"No such file"):
        parse_ranks("nowhere.toml")
