"""The user's own score of a model: `--eval FILE.py:FUNC`."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from onnx_tucker.errors import DataError, UsageError
from onnx_tucker.runtime.session import Feed, run_named

Run = Callable[[Feed], dict[str, NDArray[Any]]]
"""Runs a model: arrays by input name to arrays by output name."""

Evaluate = Callable[[Run], float]
"""The user's function: scores a model by running it; higher is better."""


def load_function(spec: str) -> Evaluate:
    """The function that `FILE.py:FUNC` names.

    Raises:
        UsageError: there is no such file or function, or the file fails when it is imported.
    """
    name, _, function = spec.rpartition(":")
    if not name:
        raise UsageError(f"--eval {spec}: it is FILE.py:FUNC, a file and the name of the function in it.")
    path = Path(name)
    module_spec = importlib.util.spec_from_file_location(f"onnx_tucker_eval_{path.stem}", path)
    if not path.is_file() or module_spec is None or module_spec.loader is None:
        raise UsageError(f"--eval {spec}: there is no Python file {path}; it is FILE.py:FUNC.")
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # dataclasses and pickles of the file look it up there
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as if the file were run: it may import its neighbours
    try:
        with _aside():
            module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        what = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else repr(error)
        raise UsageError(f"--eval {spec}: {path} fails when it is imported: {what}.") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"--eval {spec}: {path} has no function {function!r}.")
    with suppress(ValueError):  # a builtin may not tell what it takes
        try:
            inspect.signature(found).bind(None)
        except TypeError as error:
            raise UsageError(f"--eval {spec}: the function has to take one argument, which runs a model.") from error
    return found  # type: ignore[no-any-return]  # checked to be callable; what it returns is checked when it does


def score(evaluate: Evaluate, session: ort.InferenceSession) -> float:
    """The user's score of a model.

    Raises:
        DataError: the function fails or returns no number.
    """
    try:
        with _aside():
            found = evaluate(partial(run_named, session))
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise DataError(f"The function of --eval fails: {error!r}{_where(error, evaluate)}.") from error
    try:
        return float(found)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"The function of --eval gives {found!r}, which is no number.") from error


@contextmanager
def _aside() -> Iterator[None]:
    """The user's code prints nothing to stdout, which is for the report, and leaves the working folder as it was."""
    folder = Path.cwd()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.chdir(folder)


def _where(error: BaseException, evaluate: Evaluate) -> str:
    """The line of the user's file that led to an error; the last line of all where none is of that file."""
    lines = traceback.extract_tb(error.__traceback__)
    own = getattr(getattr(evaluate, "__code__", None), "co_filename", None)
    last = next((line for line in reversed(lines) if line.filename == own), lines[-1])
    return f", in line {last.lineno} of {last.filename}"
