"""What has to hold before anything is written: a model as good as the input, and what the user was promised of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime as ort

from onnx_tucker import observed
from onnx_tucker.errors import DataError, TuckerError
from onnx_tucker.fitting.factorise import Factorised
from onnx_tucker.graph.check import invalid
from onnx_tucker.graph.ends import class_axes
from onnx_tucker.graph.segment import probe
from onnx_tucker.job import Job
from onnx_tucker.runtime import fidelity
from onnx_tucker.runtime.evaluate import Evaluate, score
from onnx_tucker.runtime.session import FAILURES, Feed, first_line
from onnx_tucker.types import Closeness

logger = logging.getLogger(__name__)

CANNOT_BE_CHECKED = "cannot be checked, because the model cannot be run; a warning before this says why."


@dataclass(frozen=True)
class Verdict:
    """What a result is found to be.

    Attributes:
        closeness: of its outputs to the original's.
        score: the user's, or None where that was not asked for.
        fall: of the user's score.
        broken: the promise that it breaks, in a sentence.
    """

    closeness: list[Closeness] | None
    score: float | None = None
    fall: float | None = None
    broken: str | None = None


class Promises:
    """What the user was promised of the outputs.

    Args:
        job: the run.
        evaluate: scores a model.

    Attributes:
        original_score: the user's score of the original, if it is asked for and the model can be run.

    Raises:
        DataError: the original has none.
    """

    def __init__(self, job: Job, evaluate: Evaluate | None) -> None:
        self._job, self._evaluate = job, evaluate
        self.original_score: float | None = None
        if evaluate is not None and job.session is not None:  # before all the work, in case that it fails
            job.progress("scoring the original", 0, 1)
            self.original_score = score(evaluate, job.session)
            if not math.isfinite(self.original_score):
                given = f"{self.original_score:g}"
                raise DataError(f"The function of --eval gives {given} for the original, so no score can be held.")

    def verify(self, result: Factorised, *, rough: bool = False) -> Verdict:
        """Checks the result as a model and against the promises on its outputs, and compares them.

        Args:
            result: the model.
            rough: whether it will not be written, so that the samples kept apart say enough of what is not finite.

        Raises:
            TuckerError: the result is not as good a model as the input.
        """
        job = self._job
        session = _checked_session(job, result.model)
        closeness = _compare(job, result.model, session, self._ends)
        broken = _broken(job, closeness, self._ends.whole, changed=bool(result.weights))
        further = [] if broken or session is None else self._further(session, rough=rough)
        if further:
            others = _compare(job, result.model, session, self._ends, further)
            broken = _broken(job, others, self._ends.whole, changed=True)
        if broken or self._evaluate is None:
            return Verdict(closeness, broken=broken)
        before, most = self.original_score, job.settings.max_drop
        if session is None or before is None:
            return Verdict(closeness, broken=None if most is None else f"--max-drop {CANNOT_BE_CHECKED}")
        after = score(self._evaluate, session)
        logger.info("score %.6g before, %.6g after", before, after)
        fall = before - after
        if not math.isfinite(after):
            broken = f"The function of --eval gives {after:g} for the result."
        elif most is not None and fall > most:
            broken = f"The score falls from {before:.6g} to {after:.6g}, by more than --max-drop {most:g}."
        return Verdict(closeness, after, fall, broken)

    def _further(self, session: ort.InferenceSession, *, rough: bool) -> Sequence[int]:
        """Numbers of the feeds that promises are held on too: all, or with no promised error what is not finite."""
        job, inputs = self._job, self._job.inputs
        if inputs is None or not inputs.held_out:
            return []
        if job.settings.max_error is not None:
            return range(len(inputs.feeds))
        spoilt, apart = list[int](), len(inputs.check.feeds)
        for i, feed in enumerate(() if rough or session is job.session else inputs.fit.feeds):
            job.progress("looking for what is not finite", i, len(inputs.fit.feeds))
            if _spoilt(session, feed):
                spoilt.append(apart + i)
        return spoilt

    def score(self, model: onnx.ModelProto) -> float:
        """The user's score of a model, which is there to be asked."""
        assert self._evaluate is not None
        return score(self._evaluate, self._job.open(model.SerializeToString()))

    def lucky(self, verdicts: Sequence[Verdict]) -> bool:
        """Whether the score of the last of similar results held by chance only.

        A score of finitely many samples errs, and of many results the first that holds is a lucky one. So it has to
        hold of what falls in proportion to the error of the outputs too, by least squares over all of them.
        """
        most = self._job.settings.max_drop
        pairs = [(fidelity.mean_error(v.closeness or []), v.fall) for v in verdicts]
        known = [(error, fall) for error, fall in pairs if fall is not None and math.isfinite(error * fall)]
        if most is None or not pairs or pairs[-1][1] is None or not math.isfinite(pairs[-1][0]):
            return False
        squares = sum(error**2 for error, _ in known)
        return sum(error * fall for error, fall in known) * known[-1][0] > most * squares

    def error(self, result: Factorised) -> float:
        """The mean of the relative errors of the outputs, or of their parts; infinite where one is not known."""
        return fidelity.mean_error(self._closeness(result))

    def cost(self, result: Factorised) -> float:
        """What counts against a result: the largest of those errors where that is promised, else their mean."""
        of = fidelity.mean_error if self._job.settings.max_error is None else fidelity.largest_error
        return of(self._closeness(result))

    def _closeness(self, result: Factorised) -> list[Closeness]:
        session = _checked_session(self._job, result.model)
        return _compare(self._job, result.model, session, self._ends) or []

    @cached_property
    def _ends(self) -> _Ends:
        """What is known of the outputs before any result is."""
        job = self._job
        outputs = {value.name: value.type for value in job.session.get_outputs()} if job.session is not None else {}
        fixed = {name for name in outputs if name in job.context.shapes and observed.follow(job.model, [name])}
        whole = {name for name, kind in outputs.items() if "int" in kind or "bool" in kind}
        axes = class_axes(job.view) if job.session is not None else {}
        return _Ends(axes, fixed, whole)


class _Ends(NamedTuple):
    """What is known of a model's outputs.

    Attributes:
        axes: along which classes lie, by name; None where that is not known.
        fixed: names of those whose shape does not depend on values.
        whole: names of those of whole numbers or truths.
    """

    axes: Mapping[str, int | None]
    fixed: Collection[str]
    whole: Collection[str]


def _checked_session(job: Job, model: onnx.ModelProto) -> ort.InferenceSession | None:
    """A session on the result, which has to be as good a model as the input was."""
    if model is job.model:
        return job.session
    fault = invalid(model, job.folder)
    if fault and not job.fault:
        raise TuckerError(f"The result is not a valid model, please report this: {fault}")
    if job.session is None:
        return None
    try:
        return job.open(model.SerializeToString(deterministic=True))
    except FAILURES as error:
        raise TuckerError(f"onnxruntime cannot run the result, please report this: {first_line(error)}") from error


def _spoilt(session: ort.InferenceSession, feed: Feed) -> bool:
    """Whether a model gives something that is not finite, or nothing."""
    try:
        values = session.run(None, dict(feed))
    except FAILURES:
        return True
    return not all(np.isfinite(v).all() for v in values if isinstance(v, np.ndarray) and v.dtype.kind == "f")


def _compare(
    job: Job, model: onnx.ModelProto, session: ort.InferenceSession | None, ends: _Ends, which: Sequence[int] = ()
) -> list[Closeness] | None:
    """How close a model's outputs are on some of the feeds, or on those kept apart; None where nothing can be run."""
    if session is None or job.inputs is None or job.reference is None or job.judged is None:
        return None
    comparison, names = fidelity.Comparison(ends.axes), job.reference.names
    made = {name for node in model.graph.node for name in node.output}.difference(names)  # an earlier run may hide some
    parts = dict.fromkeys(name for inner in job.judged.parts.values() for name in inner if name in made)
    within = job.open(probe(model, parts)) if parts else None
    inner = fidelity.Comparison()
    feeds, which = job.inputs.feeds, which or range(len(job.inputs.check.feeds))
    for done, i in enumerate(which):
        job.progress("comparing outputs", done, len(which))
        feed = feeds[i]
        try:
            expected = job.reference.outputs(i)
        except FAILURES as error:  # it ran on the first of them
            if job.inputs.kind == "data":
                raise DataError(f"The model does not run on all of the data: {first_line(error)}") from error
            continue
        try:
            computed = session.run(names, dict(feed))
            inside = within.run([*parts], dict(feed)) if within is not None else []
        except FAILURES as error:
            raise TuckerError(f"The result does not run as the input does, please report this: {error}") from error
        for name, a, b in zip(names, expected, computed, strict=True):
            if isinstance(a, np.ndarray) and (a.dtype != b.dtype or (name in ends.fixed and a.shape != b.shape)):
                raise TuckerError(f"The output {name} of the result has another shape or type, please report this.")
        samples = job.inputs.fit.batch(feed)
        comparison.add(names, expected, computed, samples)
        known = dict(zip(job.judged.names, job.judged.outputs(i), strict=True)) if inside else {}
        inner.add([*parts], [known[name] for name in parts], inside, samples)
    job.progress("comparing outputs", len(which), len(which))
    outputs = comparison.results()
    each = {one.name: one for one in (*inner.results(), *outputs)}
    of = {output: tuple(each[name] for name in names if name in each) for output, names in job.judged.parts.items()}
    return [replace(one, parts=of.get(one.name, ())) for one in outputs]


def _broken(job: Job, closeness: list[Closeness] | None, whole: Collection[str], *, changed: bool) -> str | None:
    """The promise on its outputs that a result breaks."""
    settings = job.settings
    if settings.fail_if_unchanged and not changed:
        return "Nothing was changed, and --fail-if-unchanged asks for a change."
    spoilt = not_finite(closeness or [])
    if spoilt or settings.max_error is None:
        return spoilt and f"{spoilt}."
    if closeness is None or job.inputs is None:
        return f"--max-error {CANNOT_BE_CHECKED}"
    # What is judged by itself too, as probabilities are besides their scores, is all that is promised of it.
    promised = [output if output.others == output.parts else replace(output, parts=()) for output in closeness]
    far = too_far(promised, settings.max_error, job.inputs.kind, whole)
    return f"{far}." if far else None


def not_finite(outputs: Sequence[Closeness]) -> str | None:
    """What is not finite where the original's is, without a full stop; None where nothing is."""
    spoilt = (name for name, output in fidelity.called(outputs) if not output.finite)
    return next((f"The {name} is not finite where the original's is" for name in spoilt), None)


def too_far(outputs: Sequence[Closeness], most: float, kind: str, whole: Collection[str] = ()) -> str | None:
    """What is further off than it may be, without a full stop; None where nothing is.

    Args:
        outputs: how close they are.
        most: the largest relative error of one.
        kind: of the inputs, "data" or "random".
        whole: names of outputs of whole numbers, which are held by their parts if they have some.
    """
    where = "the data" if kind == "data" else "random inputs"
    for name, output in fidelity.called(outputs):
        if output.parts and (output.relative_l2 is None or output.name in whole):
            continue
        if output.relative_l2 is None:
            return (
                f"The relative error of {name} on {where} is not defined, as there are no finite numbers, only zeros "
                f"or other shapes than the original's, so that --max-error {most:g} cannot be held"
            )
        if output.relative_l2 > most:
            error = f"{output.relative_l2:.3g}"
            return f"The relative error of {name} on {where} is {error}, above --max-error {most:g}"
    return None
