"""The command line: `onnx-tucker IN OUT` and the other commands. Nothing else prints, but for the pass of Olive."""

from __future__ import annotations

import argparse
import difflib
import io
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from onnx_tucker import parsers, pipeline
from onnx_tucker.comparison import compare
from onnx_tucker.errors import PromiseError, TuckerError, UsageError
from onnx_tucker.job import WRITTEN, Progress, silent
from onnx_tucker.report.json import to_json
from onnx_tucker.report.schema import Report
from onnx_tucker.report.terminal import show, show_bench, show_compared, show_front
from onnx_tucker.rivals import bench

T = TypeVar("T")

ERROR = 1
STDOUT = "-"
NO_SETTINGS = ("model", "models", "original", "factorised", "other", "output", "json", "quiet", "verbose", "no_cache")
"""Arguments that are no fields of `Settings`."""
LOUDNESS = ("-q", "--quiet", "-v", "--verbose")
PIPE_WIDTH = 250
"""Width of lines where the output is no terminal."""
APART = 30.0
"""Seconds between lines of progress, where stderr is none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    given = _command_first(list(sys.argv[1:] if arguments is None else arguments))
    verbose = "-v" in given or "--verbose" in given
    err = _console(stderr=True)
    handler = signal.getsignal(signal.SIGINT)
    try:
        return _run(given, err)
    except TuckerError as error:
        _complain(err, str(error), verbose=verbose)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  # a bug, but still one line for the user
        what = f"Unexpected {type(error).__name__}, nothing was written; -v shows where, please report: {error}"
        _complain(err, what, verbose=verbose)
        return ERROR
    finally:
        if signal.getsignal(signal.SIGINT) is not handler:  # see `_until_written`
            signal.signal(signal.SIGINT, handler)


def _command_first(given: list[str]) -> list[str]:
    """The arguments with the command before those of them that every command takes."""
    first = next((i for i, one in enumerate(given) if one not in LOUDNESS), len(given))
    return [*given[first : first + 1], *given[:first], *given[first + 1 :]]


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a terminal or pipe may not know the arrows of the table
    return Console(stderr=stderr, width=None if stream is not None and stream.isatty() else PIPE_WIDTH, emoji=False)


def _complain(err: Console, message: str, *, verbose: bool) -> None:
    if verbose:
        with _or_not():
            err.print_exception()
    _say(err, f"error: {' '.join(message.split())}")


def _say(err: Console, message: str) -> None:
    with _or_not():
        err.print(f"onnx-tucker: {message}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _or_not() -> Iterator[None]:
    """What goes to stderr is lost where that is full or closed, but changes no exit code."""
    try:
        yield
    except (OSError, ValueError):
        sys.stderr = None  # or the interpreter fails to flush it once more on exit


class Shown(NamedTuple):
    """What a command prints.

    Attributes:
        table: prints it as a table.
        document: the same as JSON, if that is asked for.
        broken: the promise that does not hold, in words; None where all do.
    """

    table: Callable[[Console], None]
    document: str | None = None
    broken: str | None = None


def _run(given: list[str], err: Console) -> int:
    command = COMMANDS.get(given[0]) if given else None
    args, shown = command(given[1:], err) if command else _compress(given, err)
    _print(args, err, shown)
    if shown.broken:
        raise PromiseError(f"{shown.broken}.")
    return 0


def _compress(given: list[str], err: Console) -> tuple[argparse.Namespace, Shown]:
    args = parsers.compress().parse_intermixed_args(given)
    meant = difflib.get_close_matches(args.model, COMMANDS, 1)
    if args.model in COMMANDS and not Path(args.model).exists():
        raise UsageError(f"{args.model} is a command, which comes first: onnx-tucker {args.model} ...")
    if meant and not Path(args.model).suffix and not Path(args.model).exists():
        raise UsageError(f"There is no file {args.model}; the command is {meant[0]}.")
    if args.output is None and not args.dry_run:
        raise UsageError("Name the file to write: onnx-tucker IN OUT, or give --dry-run.")
    result = _watched(
        args, err, lambda progress: pipeline.compress(args.model, args.output, progress=progress, **_options(args))
    )
    return args, _report(args, result.report)


def _sweep(given: list[str], err: Console) -> tuple[argparse.Namespace, Shown]:
    args = parsers.sweep().parse_intermixed_args(given)
    found = _watched(args, err, lambda progress: pipeline.sweep(args.model, progress=progress, **_options(args)))
    return args, Shown(partial(show_front, found), found.to_json() if STDOUT in args.report else None)


def _finetune(given: list[str], err: Console) -> tuple[argparse.Namespace, Shown]:
    args = parsers.finetune().parse_intermixed_args(given)
    models = args.original, args.factorised, args.output
    result = _watched(args, err, lambda progress: pipeline.finetune(*models, progress=progress, **_options(args)))
    return args, _report(args, result.report)


def _inspect(given: list[str], err: Console) -> tuple[argparse.Namespace, Shown]:
    args = parsers.inspect().parse_intermixed_args(given)
    report = _watched(args, err, lambda progress: pipeline.inspect(args.model, progress=progress, **_options(args)))
    return args, _report(args, report)


def _compare(given: list[str], err: Console) -> tuple[argparse.Namespace, Shown]:
    args = parsers.compare().parse_intermixed_args(given)
    found = _watched(
        args, err, lambda progress: compare(args.original, args.other, progress=progress, **_options(args))
    )
    document = found.to_json() if args.json else None
    return args, Shown(partial(show_compared, found.outputs, found.notes), document, found.broken)


def _bench(given: list[str], err: Console) -> tuple[argparse.Namespace, Shown]:
    args = parsers.bench().parse_intermixed_args(given)
    found = _watched(args, err, lambda progress: bench(args.models, progress=progress, **_options(args)))
    return args, Shown(partial(show_bench, found.rows, found.environment), found.to_json() if args.json else None)


COMMANDS = {"sweep": _sweep, "finetune": _finetune, "inspect": _inspect, "compare": _compare, "bench": _bench}
"""Besides the main one, which has no name."""


def _report(args: argparse.Namespace, report: Report) -> Shown:
    return Shown(partial(show, report), to_json(report) if STDOUT in args.report else None)


def _print(args: argparse.Namespace, err: Console, shown: Shown) -> None:
    """Prints a document or a table; files are written by now, so that failing to print is no failure of the run."""
    try:
        if shown.document is not None:
            _console(stderr=False).out(shown.document, end="", highlight=False)
        elif not args.quiet:
            shown.table(_console(stderr=False))
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError, SystemExit) as error:
        if not isinstance(error, BrokenPipeError | SystemExit):  # by which rich says that nobody reads on
            _say(err, f"the result could not be printed: {error}")
        sys.stdout = None  # or the interpreter fails to flush it once more on exit


def _watched(args: argparse.Namespace, err: Console, work: Callable[[Progress], T]) -> T:
    """Does the work with a progress bar and the log on stderr."""
    with _logging(args, err):
        if args.quiet:
            return work(_until_written(silent))
        if not err.is_terminal:
            return work(_until_written(_lines(err)))
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(*columns, console=err, transient=True) as bars:
            task = bars.add_task("reading", total=None)

            def progress(what: str, done: int, of: int) -> None:
                bars.update(task, description=what, completed=done, total=of)

            return work(_until_written(progress))


def _until_written(progress: Progress) -> Progress:
    """Ignores interrupts once outputs are in their places: the exit code is to say so."""

    def told(what: str, done: int, of: int) -> None:
        interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if what == WRITTEN and interruptible and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        progress(what, done, of)

    return told


def _lines(err: Console) -> Progress:
    """A line of progress every so often, for what is no terminal."""
    told = time.monotonic()

    def progress(what: str, done: int, of: int) -> None:
        nonlocal told
        if time.monotonic() - told >= APART:
            told = time.monotonic()
            _say(err, f"{what}, {done} of {of}")

    return progress


@contextmanager
def _logging(args: argparse.Namespace, err: Console) -> Iterator[None]:
    """Sends the package's log to stderr; afterwards it goes where it went before."""
    level = logging.ERROR if args.quiet else logging.INFO if args.verbose else logging.WARNING
    handler: logging.Handler
    if err.is_terminal:
        handler = RichHandler(console=err, show_time=False, show_path=False, markup=False, rich_tracebacks=False)
    else:  # rich would fill the lines of a file up with blanks
        handler = logging.StreamHandler(err.file)
        handler.setFormatter(logging.Formatter("%(levelname)-8s %(message)s"))
    logger = logging.getLogger("onnx_tucker")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The parsed arguments as fields of `Settings`."""
    options = {k: v for k, v in vars(args).items() if k not in NO_SETTINGS}
    options["input_shape"], options["dim"] = dict(args.input_shape), dict(args.dim)
    if "report" in options:
        options["report"] = [path for path in args.report if path != STDOUT]
    if getattr(args, "no_cache", False):
        options["cache"] = None
    return options
