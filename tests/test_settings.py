"""Options, as the Python API takes them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from onnx_tucker import parsers
from onnx_tucker.course import Course
from onnx_tucker.errors import UsageError
from onnx_tucker.settings import TAKEN, Settings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": "2"}, "--threads is a whole number from 0 to 1024"),
        ({"threads": 10**400}, "--threads is a whole number from 0 to 1024"),
        ({"threads": 1.5}, "--threads is a whole number"),
        ({"seed": None}, "--seed is a whole number"),
        ({"min_speedup": "fast"}, "--min-speedup is a number"),
        ({"max_error": "0.1"}, "--max-error is a number from 0"),
        ({"max_error": float("nan")}, "--max-error is a number from 0"),
        ({"eval": 3, "max_drop": 0.1}, "--eval is FILE.py:FUNC, or in Python a function"),
        ({"no_lower": True}, "no option 'no_lower'; write lower=False"),
        ({"rank": 3}, "no option 'rank'; is it 'ranks'"),
        ({"zzz": 3}, "no option 'zzz'; Settings has them all"),
        ({"data": [np.ones(2), "x.npz"]}, "neither paths"),
        ({"finetune_epochs": "3"}, "--finetune-epochs is a whole number"),
        ({"dim": {"n": 2.5}}, "for n are not all whole numbers"),
        ({"ranks": "auto", "budget": 0.5}, "--budget is a text or several of them, not 0.5"),
        ({"exclude": [1]}, "--exclude is a text or several of them"),
        ({"dim": "n=2"}, "--dim is a dict of sizes by name, not 'n=2'"),
        ({"input_shape": ["x:1,2"]}, "--input-shape is a dict of sizes by name"),
        ({"plan": {}}, "--plan is a path"),
        ({"cache": 3}, "--cache is a path, not 3"),
        ({"input_shape": {"x": 5}}, "for x are not all whole numbers"),
        ({"dry_run": "no"}, "--dry-run is True or False, not 'no'"),
        ({"benchmark": "false"}, "--benchmark is True or False"),
        ({"labels": 3}, "--labels is the name of an array, not 3"),
        ({"flops": []}, "--flops is a text"),
        ({"ranks": np.array([8, 16])}, "--ranks is a policy, a rank, a pair"),
    ],
)
def test_what_is_no_value_of_an_option(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Settings.of(options)


@pytest.mark.parametrize("command", TAKEN)
def test_commands_take_the_same_options_from_python_as_on_the_command_line(command: str) -> None:
    parser = getattr(parsers, command)()
    by_flag = {action.dest for action in parser._actions if action.option_strings}
    assert {*TAKEN[command]} == by_flag & {field.name for field in fields(Settings)}
    with pytest.raises(UsageError, match=f"{command} has no option 'dry_run'"):
        Settings.of({"dry_run": True}, command)


@pytest.mark.parametrize(
    ("options", "insists"),
    [
        ({}, False),
        ({"keep_slower": True}, True),
        ({"ranks": "auto", "budget": "time:0.5"}, False),
        ({"ranks": "auto", "budget": ["time:0.5", "bytes:0.5"]}, True),
    ],
)
def test_slower_chains_are_wanted_where_that_is_asked_for_or_what_they_save_is(
    options: dict[str, Any], insists: bool
) -> None:
    assert Settings.of(options).insists is insists


def test_numbers_of_any_kind_that_fit_are_taken() -> None:
    settings = Settings(threads=np.int64(2), max_error=np.float32(0.5), tune_seconds=3)
    assert settings.threads == 2
    assert Course(minutes=2, learning_rate=1).minutes == 2
    with pytest.raises(UsageError, match="--epochs is a whole number"):
        Course(epochs=1.5)  # type: ignore[arg-type]


def test_paths_may_be_texts_of_numpy() -> None:
    names = np.array(["a.npz", "b.npz"])
    assert [str(path) for path in Settings(data=list(names)).data_paths] == ["a.npz", "b.npz"]
    assert [str(path) for path in Settings(data=names[0]).data_paths] == ["a.npz"]


def test_data_of_one_input_needs_no_name() -> None:
    x = np.ones((4, 3))
    named = Settings(data={"x": x})
    assert [list(part) for part in named.data_arrays] == [["x"]]
    for data, parts in ((x, 1), ([x, x], 2), (iter([x]), 1)):
        settings = Settings(data=data)
        assert [list(part) for part in settings.data_arrays] == [[""]] * parts
        assert all(part[""] is x for part in settings.data_arrays)
