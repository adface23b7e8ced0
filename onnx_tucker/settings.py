"""Every option of the main job, once; the command line and the Python API both fill these in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any

from onnx_tucker.cost import FLOPS
from onnx_tucker.errors import UsageError
from onnx_tucker.given import parts_of
from onnx_tucker.graph.ops import OPS
from onnx_tucker.options import PathLike, flag, require_kind, require_range
from onnx_tucker.rank.budget import Budget, parse_budgets
from onnx_tucker.types import Plan

RACE_SECONDS = 10.0
"""Time that models are compared for at most, beyond seven rounds."""
POINTS = 12
"""Models on a front at most."""
INPUTS = ("data", "labels", "input_shape", "dim", "threads", "seed", "custom_op_lib")
COMMON = (*INPUTS, "flops", "benchmark", "cache", "report", "overwrite")
WEIGHTS = ("freeze_initializer_inputs", "inline_functions", "dequantize", "refactorize")
TAKEN = {
    "inspect": COMMON,
    "sweep": (*COMMON, *WEIGHTS, "include", "exclude", "op_types", "lower", "tune_seconds", "jobs", "eval"),
    "finetune": (*COMMON, *WEIGHTS, "max_error", "eval", "max_drop"),
    "compare": (*INPUTS, "max_error", "benchmark"),
    "bench": INPUTS,
}
"""The settings that commands beside the main one take, which takes all."""


@dataclass(frozen=True)
class Settings:
    """Options of `compress`.

    Attributes:
        ranks: a policy ("vbmf", "vbmf:W", "energy:E", "ratio:R", "full", "auto"), a rank, a pair (in, out), one
            of these or "keep" by the name of each node, or the path of a TOML or JSON file with such a table.
        budget: what "auto" may leave of the original's cost: "flops:S", "params:S", "bytes:S", "time:S", or several.
        data: `.npz` or `.npy` files or folders of them, arrays by input name, or one where there is one input, batches
            of those, or an object whose `get_next()` gives one batch after another and None at the end (onnxruntime's
            CalibrationDataReader).
        labels: name of the array of the data that holds labels, which fine-tuning may learn.
        finetune_epochs: passes over the data in which the result is trained to do what the original does; 0 for none.
        statistics: file of `statistics_out` of an earlier run, in place of data: nodes are fitted one by one to that.
        statistics_out: where to write what the nodes see on the data.
        max_error: the largest relative L2 error of any output that is accepted.
        eval: "FILE.py:FUNC", or a function; FUNC(run) returns a score, higher is better.
        max_drop: the largest loss of that score that is accepted; None for any, the score is reported.
        lower: whether convolutions may be computed in other forms, mainly 3D ones as 2D ones on frames.
        benchmark: whether to time; without it nothing is given back for being slow.
        keep_slower: whether to keep chains that measure slower than their node.
        tune_seconds: time after which fewer forms of the remaining nodes are tried.
        min_speedup: how much faster than its node a chain has to be, unless it is wanted all the same, see `insists`.
        include: globs of node names to factorise; empty for all.
        exclude: globs of node names to leave alone.
        op_types: operators to factorise; empty for all.
        input_shape: whole shapes of inputs by name.
        dim: sizes of symbolic dimensions by name.
        threads: of one operator; 0 for one for each core that the process may use.
        seed: of noise, of the samples and positions that are drawn, and of training.
        jobs: layers that are factorised at the same time.
        flops: counting convention, one of `cost.FLOPS`.
        plan: a plan, or the path of one, to carry out instead of choosing.
        plan_out: where to write the plan.
        report: where to write reports, format by ending.
        dry_run: stop when the plan is made.
        overwrite: whether existing output files are replaced.
        save_as_external_data: whether weights go to a file of their own.
        freeze_initializer_inputs: whether weights that are graph inputs with a default are taken for constants.
        inline_functions: whether model-local functions are replaced by their nodes first.
        dequantize: whether weights that are stored as integers are factorised, and stored as floats.
        refactorize: whether the chains of an earlier run are factorised like other nodes.
        custom_op_lib: shared library with custom operators for onnxruntime.
        fail_if_unchanged: whether it breaks a promise if nothing is factorised or lowered.
        cache: folder that remembers what was measured and tried; None for nothing beyond the run.
    """

    ranks: str | int | tuple[int, int] | Path | Mapping[str, Any] = "vbmf"
    budget: str | Sequence[str] | None = ()
    data: Any = ()
    labels: str | None = None
    finetune_epochs: int = 0
    statistics: PathLike | None = None
    statistics_out: PathLike | None = None
    max_error: float | None = None
    eval: Any = None
    max_drop: float | None = None
    lower: bool = True
    benchmark: bool = True
    keep_slower: bool = False
    min_speedup: float = 1.0
    tune_seconds: float = 60.0
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    op_types: Sequence[str] = ()
    input_shape: Mapping[str, Sequence[int]] = field(default_factory=dict)
    dim: Mapping[str, int] = field(default_factory=dict)
    threads: int = 0
    seed: int = 0
    jobs: int = 1
    flops: str = "exact"
    plan: Plan | PathLike | None = None
    plan_out: PathLike | None = None
    report: Sequence[PathLike] = ()
    dry_run: bool = False
    overwrite: bool = False
    save_as_external_data: bool = False
    freeze_initializer_inputs: bool = False
    inline_functions: bool = False
    dequantize: bool = False
    refactorize: bool = False
    custom_op_lib: PathLike | None = None
    fail_if_unchanged: bool = False
    cache: PathLike | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], command: str | None = None) -> Settings:
        """Those with some options.

        Args:
            options: by name.
            command: which of `TAKEN` is given them; None for the main one.

        Raises:
            UsageError: one is not known, or has no such value, or two of them contradict each other, or the command
                takes no such one.
        """
        known = [one.name for one in fields(cls)]
        for name in options.keys() - {*known}:
            positive = name.removeprefix("no_")
            close = get_close_matches(name, known, 1)
            advice = f"write {positive}=False." if positive in known else f"is it {close[0]!r}?" if close else ""
            raise UsageError(f"There is no option {name!r}; {advice or 'Settings has them all.'}")
        strange = sorted(options.keys() - {*TAKEN[command]}) if command is not None else ()
        if strange:
            raise UsageError(f"{command} has no option {strange[0]!r}, which is for compress.")
        return cls(**options)

    def __post_init__(self) -> None:
        """Checks what can be checked without a model.

        Raises:
            UsageError: an option has no such value, or two of them contradict each other.
        """
        for name in ("budget", "include", "exclude", "op_types", "report"):
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        _check_kinds(self)
        object.__setattr__(self, "data", parts_of(self.data))
        require_range("threads", self.threads, 0, 1024, whole=True)
        require_range("seed", self.seed, 0, 2**63, whole=True)
        require_range("jobs", self.jobs, 1, 1024, whole=True)
        require_range("min_speedup", self.min_speedup, 0, 1e9, whole=False)
        require_range("tune_seconds", self.tune_seconds, 0, 1e9, whole=False)
        require_range("finetune_epochs", self.finetune_epochs, 0, 1e6, whole=True)
        if isinstance(self.ranks, list):
            object.__setattr__(self, "ranks", tuple(self.ranks))
        if self.flops not in FLOPS:
            raise UsageError(f"--flops {self.flops}: unknown convention; it is one of {', '.join(FLOPS)}.")
        unknown = sorted(set(self.op_types) - set(OPS))
        if unknown:
            raise UsageError(f"--op-types {unknown[0]}: not factorised; choose from {', '.join(OPS)}.")
        if self.budget and self.ranks != "auto" and self.plan is None:
            raise UsageError("--budget is for --ranks auto, which chooses ranks for it, or for --plan.")
        held = self.budgets or self.plan is not None
        if self.ranks == "auto" and not (held or self.max_error is not None or self.max_drop is not None):
            raise UsageError(
                "--ranks auto needs a --budget, or a promise to hold: --max-error, or --eval and --max-drop."
            )
        if not self.benchmark and any(budget.of == "time" for budget in self.budgets):
            raise UsageError("--no-benchmark measures no times, so a --budget of time cannot be held.")
        if self.statistics is not None and self.data:
            raise UsageError("--statistics takes the place of --data; give one of them.")
        if self.statistics_out is not None and not self.data:
            raise UsageError("--statistics-out needs --data, of which they are.")
        if self.finetune_epochs > 0 and not self.data:
            raise UsageError("--finetune-epochs needs --data, on which the result is trained.")
        if self.max_drop is not None and self.eval is None:
            raise UsageError("--max-drop is of the score that a function gives; name that with --eval.")
        if not (self.eval is None or isinstance(self.eval, str) or callable(self.eval)):
            raise UsageError("--eval is FILE.py:FUNC, or in Python a function.")
        for name, sizes in (*self.input_shape.items(), *((n, (size,)) for n, size in self.dim.items())):
            if not isinstance(sizes, Sequence) or not all(isinstance(n, Integral) and 0 <= n < 2**31 for n in sizes):
                raise UsageError(f"The sizes {sizes} given for {name} are not all whole numbers from 0 to 2147483647.")
        for name in ("max_error", "max_drop"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Real) and float(value) >= 0):
                raise UsageError(f"{flag(name)} is a number from 0.")

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """`budget`, one of each quantity."""
        return parse_budgets(tuple(map(str, self.budget or ())))

    @property
    def insists(self) -> bool:
        """Whether chains are wanted even where they are slower than their node."""
        return self.keep_slower or any(budget.of != "time" for budget in self.budgets)

    @property
    def ranks_text(self) -> str:
        """`ranks` as on the command line."""
        return ",".join(map(str, self.ranks)) if isinstance(self.ranks, tuple) else str(self.ranks)

    @property
    def data_paths(self) -> list[Path]:
        """The data files and folders; none where arrays were given."""
        return [Path(part) for part in self.data if not isinstance(part, Mapping)]

    @property
    def data_arrays(self) -> list[Mapping[str, Any]]:
        """The batches of arrays; none where files were given."""
        return [part for part in self.data if isinstance(part, Mapping)]

    def as_dict(self) -> dict[str, Any]:
        """The settings for the report: arrays, functions and plans by kind, paths as text."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        return plain | {"data": _plain(self.data_paths or self.data_arrays[:1])}  # the other batches look the same


def _texts(name: str, value: Any) -> tuple[PathLike, ...]:
    """What was given once or several times, or not at all.

    Raises:
        UsageError: it is something else.
    """
    several = value if isinstance(value, Iterable) and not isinstance(value, str | Mapping) else [value]
    found = () if value is None else tuple(several)
    if not all(isinstance(one, PathLike) for one in found):
        raise UsageError(f"{flag(name)} is a text or several of them, not {value!r}.")
    return found


def _check_kinds(settings: Settings) -> None:
    """Makes sure that values are of the kinds that they have to be.

    Raises:
        UsageError: one is not.
    """
    for one in fields(settings):
        if isinstance(one.default, bool):
            require_kind(one.name, getattr(settings, one.name), (bool,), "True or False")
    for name in ("statistics", "statistics_out", "plan_out", "custom_op_lib", "cache"):
        require_kind(name, getattr(settings, name), (str, Path, NoneType), "a path")
    require_kind("plan", settings.plan, (str, Path, Plan, NoneType), "a path or a plan")
    require_kind("flops", settings.flops, (str,), "a text")
    require_kind("labels", settings.labels, (str, NoneType), "the name of an array")
    for name in ("input_shape", "dim"):
        require_kind(name, getattr(settings, name), (Mapping,), "a dict of sizes by name")
    kinds = (str, Integral, Path, Mapping, list, tuple)
    require_kind("ranks", settings.ranks, kinds, "a policy, a rank, a pair of ranks, a file or a dict by node")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    return value if value is None or isinstance(value, str | bool) else type(value).__name__
