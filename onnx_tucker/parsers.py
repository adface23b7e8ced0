"""What the command line takes: a parser for each command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import NoReturn

import platformdirs

import onnx_tucker
from onnx_tucker.cost import FLOPS
from onnx_tucker.course import LOSSES, Course
from onnx_tucker.errors import UsageError
from onnx_tucker.report import FORMATS, front
from onnx_tucker.settings import POINTS, RACE_SECONDS, Settings


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[:1].upper()}{message[1:]}; see {self.prog} --help.")


def compress() -> argparse.ArgumentParser:
    """Of `onnx-tucker IN OUT`."""
    parser = _Parser(
        prog="onnx-tucker",
        description="Turn a trained ONNX model into a smaller, faster one with the same inputs and outputs.",
        epilog="Further commands: onnx-tucker inspect IN counts and times the layers of a model as they are; "
        "onnx-tucker compare A B says how close the outputs of B are to those of A; "
        "onnx-tucker bench IN... times models side by side; "
        "onnx-tucker sweep IN finds the models between the original and the cheapest; "
        "onnx-tucker finetune ORIGINAL FACTORISED -o TUNED trains the weights of a factorised model. "
        "Exit codes: 0 done or nothing to do, 1 error, 2 usage, 3 a promise or budget does not hold, 130 interrupted; "
        "on any but 0 no output is written.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="IN", help="the model; it is never changed")
    parser.add_argument("output", metavar="OUT", nargs="?", help="where to write the result")
    parser.add_argument("--version", action="version", version=f"onnx-tucker {onnx_tucker.__version__}")
    what = parser.add_argument_group("what to factorise")
    what.add_argument(
        "--ranks",
        default=Settings.ranks,
        help="vbmf, vbmf:W, energy:E, ratio:R, full, auto, a rank, IN,OUT or a .toml or .json file "
        "(default: %(default)s)",
    )
    what.add_argument(
        "--budget",
        metavar="COST:S",
        action="append",
        default=[],
        help="the share S that auto may leave of the original's time, flops, params or bytes; repeatable, all are held",
    )
    what.add_argument("--plan", metavar="P.json", help="carry out this plan instead of choosing")
    _add_sites(what)
    what.add_argument("--statistics", metavar="S.npz", help="fit to what an earlier run has kept, in place of --data")
    what.add_argument(
        "--finetune-epochs",
        metavar="N",
        type=int,
        default=Settings.finetune_epochs,
        help="then train the result on the data (default: %(default)s)",
    )
    promises = _add_promises(parser)
    promises.add_argument("--fail-if-unchanged", action="store_true", help="something has to be factorised or lowered")
    speed = parser.add_argument_group("speed")
    speed.add_argument("--keep-slower", action="store_true", help="keep chains that measure slower than their node")
    speed.add_argument(
        "--min-speedup",
        metavar="S",
        type=float,
        default=Settings.min_speedup,
        help="keep a chain only if it is S times as fast (default: %(default)g)",
    )
    _add_work(speed)
    out = parser.add_argument_group("output")
    out.add_argument("--plan-out", metavar="P.json", help="write the plan")
    out.add_argument("--statistics-out", metavar="S.npz", help="write what the nodes see on --data, for --statistics")
    out.add_argument("--dry-run", action="store_true", help="choose and report, write no model")
    out.add_argument(
        "--save-as-external-data",
        action="store_true",
        help="write the weights to OUT.data; they stay in a file of their own anyway",
    )
    _add_common(parser)
    return parser


def inspect() -> argparse.ArgumentParser:
    """Of `onnx-tucker inspect IN`."""
    parser = _Parser(
        prog="onnx-tucker inspect", description="Count and time a model's layers as they are.", allow_abbrev=False
    )
    parser.add_argument("model", metavar="IN", help="the model")
    _add_common(parser)
    return parser


def finetune() -> argparse.ArgumentParser:
    """Of `onnx-tucker finetune ORIGINAL FACTORISED -o TUNED`."""
    parser = _Parser(
        prog="onnx-tucker finetune",
        description="Train the weights of a factorised model until it does what the original does; nothing else of it "
        "changes. Inputs without labels suffice.",
        allow_abbrev=False,
    )
    parser.add_argument("original", metavar="ORIGINAL", help="the model that it was made from")
    parser.add_argument("factorised", metavar="FACTORISED", help="the factorised model; it is never changed")
    parser.add_argument("-o", "--output", metavar="TUNED", required=True, help="where to write the result")
    parser.add_argument(
        "--epochs",
        metavar="N",
        type=int,
        default=Course.epochs,
        help=f"passes over the data, at most (default: {Course.epochs})",
    )
    parser.add_argument(
        "--minutes",
        metavar="T",
        type=float,
        default=Course.minutes,
        help=f"time that training takes, at most (default: {Course.minutes:g})",
    )
    parser.add_argument(
        "--learning-rate",
        metavar="L",
        type=float,
        default=Course.learning_rate,
        help=f"of Muon and AdamW, relative to the size of weights (default: {Course.learning_rate:g})",
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        type=int,
        default=Course.batch,
        help=f"samples of a step, at most (default: {Course.batch})",
    )
    parser.add_argument("--loss", choices=LOSSES, help="what to learn (default: both if there are --labels)")
    parser.add_argument("--blocks", action="store_true", help="train block by block, which takes less memory")
    _add_promises(parser)
    _add_weights(parser.add_argument_group("what was factorised, as it was said then"))
    _add_common(parser)
    return parser


def sweep() -> argparse.ArgumentParser:
    """Of `onnx-tucker sweep IN`."""
    parser = _Parser(
        prog="onnx-tucker sweep",
        description="Find the Pareto front between the original and the cheapest model: none on it is both cheaper and "
        "more accurate than another. Each has a plan, which onnx-tucker IN OUT --plan carries out.",
        allow_abbrev=False,
    )
    parser.add_argument("model", metavar="IN", help="the model; it is never changed")
    parser.add_argument(
        "--points", metavar="N", type=int, default=POINTS, help="models on the front, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--plans", metavar="DIR", help="folder to write the plans to; with --overwrite, those beyond are removed"
    )
    parser.add_argument("--eval", metavar="FILE.py:FUNC", help="FUNC(run) scores a model, higher is better")
    _add_sites(parser.add_argument_group("what to factorise"))
    _add_work(parser.add_argument_group("speed"))
    _add_common(parser, front.FORMATS)
    return parser


def bench() -> argparse.ArgumentParser:
    """Of `onnx-tucker bench IN...`."""
    parser = _Parser(
        prog="onnx-tucker bench",
        description="Time models that take the same inputs side by side; speed-ups are over the first.",
        allow_abbrev=False,
    )
    parser.add_argument("models", metavar="IN", nargs="+", help="the models")
    _add_race(parser)
    _add_inputs(parser.add_argument_group("inputs and timing"))
    return parser


def compare() -> argparse.ArgumentParser:
    """Of `onnx-tucker compare A B`."""
    parser = _Parser(
        prog="onnx-tucker compare",
        description="Say how close the outputs of B are to those of A on the same inputs, and how large and fast both "
        "are.",
        allow_abbrev=False,
    )
    parser.add_argument("original", metavar="A", help="the model that the other is compared with")
    parser.add_argument("other", metavar="B", help="the other, with the same inputs and outputs")
    parser.add_argument(
        "--max-error", metavar="E", type=float, help="exit code 3 if an output is further off, by its relative L2 error"
    )
    _add_race(parser)
    parser.add_argument("--no-benchmark", dest="benchmark", action="store_false", help="time nothing")
    _add_inputs(parser.add_argument_group("inputs and timing"))
    return parser


def _add_race(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seconds",
        metavar="T",
        type=float,
        default=RACE_SECONDS,
        help="longest time to spend beyond seven rounds (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _add_promises(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("promises: if one is broken, the exit code is 3 and nothing is written")
    group.add_argument("--max-error", metavar="E", type=float, help="largest relative L2 error of an output")
    group.add_argument("--eval", metavar="FILE.py:FUNC", help="FUNC(run) scores a model, higher is better")
    group.add_argument("--max-drop", metavar="D", type=float, help="largest loss of that score")
    return group


def _add_sites(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--include", metavar="GLOB", action="append", default=[], help="only these nodes; repeatable")
    group.add_argument("--exclude", metavar="GLOB", action="append", default=[], help="not these nodes; repeatable")
    group.add_argument(
        "--op-types", metavar="OPS", type=_names, default=[], help="only these operators, such as Conv,Gemm"
    )
    group.add_argument("--no-lower", dest="lower", action="store_false", help="keep 3D convolutions 3D, and 1D ones 1D")
    _add_weights(group)


def _add_weights(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--freeze-initializer-inputs", action="store_true", help="also weights that callers could replace"
    )
    group.add_argument("--inline-functions", action="store_true", help="also nodes in model-local functions")
    group.add_argument("--dequantize", action="store_true", help="also weights stored as integers; they become floats")
    group.add_argument("--refactorize", action="store_true", help="also chains that an earlier run has made")


def _add_work(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--tune-seconds",
        metavar="T",
        type=float,
        default=Settings.tune_seconds,
        help="time to spend on trying ways to compute layers (default: %(default)g)",
    )
    group.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        default=Settings.jobs,
        help="layers factorised at the same time (default: %(default)s)",
    )


def _add_common(parser: argparse.ArgumentParser, formats: Iterable[str] = FORMATS) -> None:
    group = parser.add_argument_group("inputs, counting and timing")
    _add_inputs(group)
    group.add_argument(
        "--flops",
        default=Settings.flops,
        metavar="NAME",
        help=f"counting convention: {', '.join(FLOPS)} (default: %(default)s)",
    )
    group.add_argument("--no-benchmark", dest="benchmark", action="store_false", help="time nothing")
    group.add_argument(
        "--cache",
        metavar="DIR",
        default=platformdirs.user_cache_dir("onnx-tucker"),
        help="remembers what was measured (default: the user's cache folder)",
    )
    group.add_argument("--no-cache", action="store_true", help="measure everything again, remember nothing")
    group.add_argument(
        "--report",
        metavar="R",
        action="append",
        default=[],
        help=f"{', '.join(formats)}, or - for JSON on stdout; repeatable",
    )
    group.add_argument("--overwrite", action="store_true", help="replace output files that exist")


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--data",
        metavar="PATH",
        action="append",
        default=[],
        help=".npz (input names as keys), .npy or folder; repeatable",
    )
    group.add_argument(
        "--labels", metavar="KEY", help="the array of the data that is no input but labels, to be learnt too"
    )
    group.add_argument(
        "--input-shape", metavar="x:1,3,8,8", type=_shape, action="append", default=[], help="of an input; repeatable"
    )
    group.add_argument(
        "--dim", metavar="N=1", type=_dim, action="append", default=[], help="of a free dimension; repeatable"
    )
    group.add_argument(
        "--threads",
        metavar="N",
        type=int,
        default=Settings.threads,
        help="threads of an operator; 0: one a core, the default",
    )
    group.add_argument(
        "--seed",
        metavar="N",
        type=int,
        default=Settings.seed,
        help="of noise, draws and training (default: %(default)s)",
    )
    group.add_argument("--custom-op-lib", metavar="LIB", help="shared library with custom operators")
    group.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    group.add_argument("-v", "--verbose", action="store_true", help="say what is being done, show tracebacks")


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, colon, sizes = text.rpartition(":")
    try:
        shape = tuple(int(size) for size in sizes.split(","))
    except ValueError:
        shape = (-1,)
    if not colon or min(shape) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape like x:1,3,224,224")
    return name, shape


def _dim(text: str) -> tuple[str, int]:
    name, _, size = text.partition("=")
    if not name or not size.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no dimension like N=1")
    return name, int(size)
