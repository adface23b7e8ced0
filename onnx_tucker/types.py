"""What flows through the pipeline: Site or Skip, then Candidate, Choice, Plan, and at last Chain.

All are frozen, and none knows about files, graphs or sessions. Weights are in one canonical layout everywhere,
`W[out, in, *kernel]`: a matrix product is a convolution without spatial axes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from onnx_tucker.errors import PlanError

Array = NDArray[np.floating[Any]]
Ranks = tuple[int, ...]
Status = Literal["factorized", "lowered", "kept", "skipped"]
Basis = Literal["weights", "outputs", "influence", "activations", "influence, activations", "influence on activations"]
"""What chains are fitted to.

- weights: the weight of the node alone.
- outputs: the outputs of the node on data, all errors of them alike.
- influence: the same, with errors weighed by how much they count at the model's outputs (`adjoints.influence`).
- activations: fitted to the outputs, then to what is seen of these behind the activation, all errors alike.
- influence, activations: fitted by influence, then to what is seen behind the activation, all errors alike.
- influence on activations: the same, with the latter errors weighed too.
"""

PLAN_SCHEMA = "onnx-tucker/plan/1"


@dataclass(frozen=True)
class Window:
    """The spatial side of a convolution, one entry an axis; without axes, a matrix product.

    Attributes:
        kernel: kernel size.
        strides: step between output positions.
        dilations: step between kernel elements.
        pads: all begins, then all ends, as in ONNX; meaningless unless `auto_pad` is "NOTSET".
        auto_pad: "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
        transposed: whether the kernel spreads every input position out (ConvTranspose).
        output_padding: of a transposed window, positions added at the end.
        output_shape: of a transposed window, the spatial size of the output where the node gives it.
    """

    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: str = "NOTSET"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = ()

    @property
    def volume(self) -> int:
        """Number of kernel elements."""
        return math.prod(self.kernel)

    def pointwise(self) -> Window:
        """The window of the same number of axes that looks at one position at a time."""
        axes = len(self.kernel)
        return Window((1,) * axes, (1,) * axes, (1,) * axes, (0,) * 2 * axes)

    def explicit(self, size: tuple[int, ...]) -> Window:
        """The same window on an input of spatial size `size`, with `auto_pad` spelt out as pads; not for transposed."""
        if self.auto_pad == "NOTSET":
            return self
        begins, ends = [], []
        for length, out, kernel, stride, dilation in zip(
            size, self.output_size(size), self.kernel, self.strides, self.dilations, strict=True
        ):
            total = max((out - 1) * stride + dilation * (kernel - 1) + 1 - length, 0)
            if self.auto_pad == "VALID":
                total = 0
            begins.append((total + (self.auto_pad == "SAME_LOWER")) // 2)
            ends.append(total - begins[-1])
        return replace(self, pads=(*begins, *ends), auto_pad="NOTSET")

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of the output for an input of spatial size `size` (ONNX operators Conv and ConvTranspose)."""
        if self.transposed:
            return self.output_shape or self._transposed_size(size)
        axes = len(self.kernel)
        result = []
        for i, (length, kernel, stride, dilation) in enumerate(
            zip(size, self.kernel, self.strides, self.dilations, strict=True)
        ):
            if self.auto_pad.startswith("SAME"):
                result.append(-(-length // stride))
            else:
                pad = 0 if self.auto_pad == "VALID" else self.pads[i] + self.pads[i + axes]
                result.append((length + pad - dilation * (kernel - 1) - 1) // stride + 1)
        return tuple(result)

    def _transposed_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        axes = len(self.kernel)
        result = []
        for i, (length, extra) in enumerate(zip(size, self.output_padding, strict=True)):
            reach = self.dilations[i] * (self.kernel[i] - 1) + 1
            whole = self.strides[i] * (length - 1) + extra + reach
            if self.auto_pad.startswith("SAME"):
                result.append(min(length * self.strides[i], whole))
            else:
                result.append(whole - (0 if self.auto_pad == "VALID" else self.pads[i] + self.pads[i + axes]))
        return tuple(result)


@dataclass(frozen=True)
class Stage:
    """One layer of a chain, without its weight: the channels of a group, the window it moves, and how many groups.

    A group takes its own share of the input channels to its own share of the output channels. The batch of a batched
    matrix product is a number of groups too.
    """

    out: int
    inp: int
    window: Window
    groups: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stage's weight, (groups * out, in, *kernel)."""
        return (self.groups * self.out, self.inp, *self.window.kernel)

    def pointwise(self, out: int, inp: int) -> Stage:
        """A stage of as many groups that mixes channels at one position at a time."""
        return Stage(out, inp, self.window.pointwise(), self.groups)


@dataclass(frozen=True)
class Chain:
    """A decomposition: stages in the order of computation, and the weight of each.

    Attributes:
        stages: the layers.
        factors: their weights.
        bias: what the last stage adds, (groups * out,), in the place of what the site added; None for the same.
    """

    stages: tuple[Stage, ...]
    factors: tuple[Array, ...]
    bias: Array | None = None

    def __post_init__(self) -> None:
        shapes = [factor.shape for factor in self.factors]
        if shapes != [stage.shape for stage in self.stages]:
            raise ValueError(f"factors of the shapes {shapes} do not fit the stages {self.stages}")


@dataclass(frozen=True)
class Site:
    """A node that could be factorised.

    Attributes:
        name: unique in the model; the node's own name where it has one.
        op: operator type.
        stage: the site as the only stage of a chain.
        dtype: the type of its weight.
        read: reads the weight, (groups * out, in, *kernel) in the model's own type; it is not kept in memory.
        input_shape: (batch, groups * in, *spatial) of the activations, or None where it is not known. A matrix
            product has no spatial axes, and its batch is how many vectors a group multiplies.
        bias: whether something is added to the output.
        scalings: multiplications per output element besides the products (alpha and beta of a Gemm).
        size: spatial size of the activations where the model itself fixes it.
    """

    name: str
    op: str
    stage: Stage
    dtype: np.dtype[Any]
    read: Callable[[], Array]
    input_shape: tuple[int, ...] | None
    bias: bool
    scalings: int = 0
    size: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Skip:
    """A weight-bearing node that is not factorised.

    Attributes:
        name: as in `Site`.
        op: operator type.
        reason: why.
        site: what it computes, if it may be computed in another form.
    """

    name: str
    op: str
    reason: str
    site: Site | None = None


@dataclass(frozen=True)
class Candidate:
    """One way to compute a site, without its factors.

    Attributes:
        method: name in `factor.METHODS`; None leaves the weight as it is.
        ranks: one rank for each of the method's modes; None without a method.
        stages: the layers that it would become.
        predicted_error: upper bound on the relative Frobenius error of the weight; 0 where nobody compares it.
        form: name in `forms.FORMS`.
    """

    method: str | None
    ranks: Ranks | None
    stages: tuple[Stage, ...]
    predicted_error: float = 0.0
    form: str = "direct"

    @property
    def changes(self) -> bool:
        """Whether the site is computed otherwise than it was."""
        return self.method is not None or self.form != "direct"

    def __str__(self) -> str:
        return recipe(self.method, self.ranks, self.form)


@dataclass(frozen=True)
class Choice:
    """What is to become of one node.

    Attributes:
        name: the node's name, as in `Site.name`.
        op: operator type.
        shape: shape of the canonical weight, or None where it was not read.
        status: "factorized", "lowered", "kept" (could have been) or "skipped" (could not).
        reason: why it is kept or skipped, or not factorised where it is lowered.
        method: name in `factor.METHODS`, or None.
        form: name in `forms.FORMS` of how its arithmetic is laid out, or None where the node stays.
        ranks: the method's ranks, or None.
    """

    name: str
    op: str
    shape: tuple[int, ...] | None
    status: Status
    reason: str = ""
    method: str | None = None
    form: str | None = None
    ranks: Ranks | None = None


@dataclass(frozen=True)
class Plan:
    """The decision for every weight-bearing node.

    Attributes:
        choices: in the order of the graph.
        basis: what the chains are made from where there is data; None for what brings the model closest.
    """

    choices: tuple[Choice, ...]
    basis: Basis | None = None

    def __str__(self) -> str:
        return "\n".join(
            f"{c.name}: {recipe(c.method, c.ranks, c.form) if c.form else f'{c.status}, {c.reason}'}"
            for c in self.choices
        )

    def to_json(self) -> str:
        """The plan as a JSON document that `from_json` reads back."""
        return json.dumps(self.to_dict(), indent=1) + "\n"

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {"schema": PLAN_SCHEMA, "basis": self.basis, "nodes": [asdict(c) for c in self.choices]}

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads a plan.

        Raises:
            PlanError: the text is no plan of this version.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"The plan is not JSON: {error}.") from error
        if not isinstance(document, Mapping) or document.get("schema") != PLAN_SCHEMA:
            raise PlanError(f'The plan has no "schema": "{PLAN_SCHEMA}"; write one with --plan-out.')
        try:
            choices = tuple(_choice(entry) for entry in document["nodes"])
            if len({choice.name for choice in choices}) < len(choices):
                raise ValueError("two entries have the same name")
            basis = document.get("basis")
            if basis not in (None, *get_args(Basis)):
                raise ValueError(f"unknown basis {basis!r}")
            return cls(choices, basis)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise PlanError(f"The plan has a malformed entry ({error}); write a new one with --plan-out.") from error


@dataclass(frozen=True)
class Closeness:
    """One output of model B against the same output of model A.

    Attributes:
        name: the output.
        relative_l2: |a - b| / |a| over all samples; None where A's output is zero and B's is not, where no values are
            finite, where squares overflow, and where the outputs differ in shape or are texts that differ; 0 for texts
            that are the same.
        max_abs: largest absolute difference.
        cosine: cosine of the angle between all of A's values and all of B's.
        snr_db: -20 log10(relative_l2); None without any difference.
        argmax_agreement: share of positions at which the largest value along the axis of classes is the same; see
            `ends.class_axes`; None where that is not known, or has no two.
        finite: whether B is finite wherever A is.
        parts: the same of values that the output follows from, where its own error tells little: what it puts together
            of unlike sizes, as scores beside coordinates, what it is chosen from, or of probabilities itself and the
            scores.
        effective_samples: (sum n)^2 / sum n^2 with n the squared norm of A's values in a sample: how many samples tell
            the relative error, all of them if they are of one size (Kish, "Survey Sampling", 1965).
    """

    name: str
    relative_l2: float | None
    max_abs: float | None
    cosine: float | None
    snr_db: float | None
    argmax_agreement: float | None
    finite: bool = True
    parts: tuple[Closeness, ...] = ()
    effective_samples: float | None = None

    @property
    def others(self) -> tuple[Closeness, ...]:
        """The parts but for the output itself."""
        return tuple(part for part in self.parts if part.name != self.name)


def recipe(method: str | None, ranks: Ranks | None, form: str | None) -> str:
    """A method, its ranks and a form in words."""
    ranked = f"{method} {','.join(map(str, ranks or ()))}" if method else ""
    return " ".join(filter(None, (ranked, form if form != "direct" or not method else "")))


def _choice(entry: Mapping[str, Any]) -> Choice:
    """A choice from its JSON; KeyError, TypeError or ValueError where it is malformed."""
    if entry["status"] not in get_args(Status):
        raise ValueError(f"unknown status {entry['status']!r}")
    texts = [entry["name"], entry["op"], entry["reason"], entry["method"] or "", entry["form"] or ""]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a text of {entry['name']!r} is none")
    factorized = entry["status"] == "factorized"
    expected = {"method": factorized, "ranks": factorized, "form": factorized or entry["status"] == "lowered"}
    idle = entry["status"] == "lowered" and entry["form"] == "direct"
    if idle or any((entry[key] is not None) != there for key, there in expected.items()):
        raise ValueError(f"{entry['name']!r} is {entry['status']}, which does not go with its method, form and ranks")
    return Choice(**{**entry, "ranks": _integers(entry["ranks"]), "shape": _integers(entry["shape"])})


def _integers(values: Any) -> tuple[int, ...] | None:
    if values is None:
        return None
    if not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise TypeError(f"{values!r} are no whole numbers")
    return tuple(values)
