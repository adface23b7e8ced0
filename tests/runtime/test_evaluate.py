from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from onnx_tucker.errors import DataError, UsageError
from onnx_tucker.runtime.evaluate import load_function, score
from tests.helpers import session, two_layers

CODE = """
import numpy
def total(run):
    return run({"x": numpy.ones((1, 24, 16, 16), "float32")})["y"].sum()
def words(run):
    return "good"
def broken(run):
    raise KeyError("label")
def refused(run):
    return run({"z": numpy.ones(1)})
def huge(run):
    return 10**400
def away(run):
    import os
    os.chdir(os.path.dirname(__file__))
    return 1
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "score.py"
    path.write_text(CODE)
    return path


def test_the_working_folder_stays(file: Path) -> None:
    before = Path.cwd()
    assert score(load_function(f"{file}:away"), session(two_layers())) == 1
    file.write_text(f"import os\nos.chdir({str(file.parent)!r})\n{CODE}")
    load_function(f"{file}:total")
    assert Path.cwd() == before
    assert sys.path.count(str(file.parent)) == 1


def test_a_function_scores_a_model(file: Path) -> None:
    made = session(two_layers())
    expected = made.run(None, {"x": np.ones((1, 24, 16, 16), np.float32)})[0].sum()
    assert score(load_function(f"{file}:total"), made) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["none", "number", ""])
def test_functions_that_are_not_there(file: Path, name: str) -> None:
    with pytest.raises(UsageError, match="has no function"):
        load_function(f"{file}:{name}")


def test_files_that_are_not_there_or_fail(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Python file"):
        load_function(f"{tmp_path}/none.py:f")
    with pytest.raises(UsageError, match=r"it is FILE\.py:FUNC"):
        load_function("score.py")
    for text, words in (
        ("1 / 0", "ZeroDivisionError"),
        ("def f(:", "line 1: invalid syntax"),
        ("def f(): return 1", "has to take one argument"),
        ("def f(run, other): return 1", "has to take one argument"),
    ):
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(UsageError, match=words):
            load_function(f"{tmp_path}/bad.py:f")


@pytest.mark.parametrize(
    ("name", "words"),
    [("words", "is no number"), ("broken", "--eval fails.*in line"), ("refused", r"in line 10 of .*score\.py")],
)
def test_functions_that_fail(file: Path, name: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        score(load_function(f"{file}:{name}"), session(two_layers()))
