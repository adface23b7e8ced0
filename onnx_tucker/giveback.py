"""What is given back of a decision that was carried out: what does not pay in time, and what breaks a promise."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_tucker.errors import PromiseError, TuckerError
from onnx_tucker.fitting import trust
from onnx_tucker.fitting.factorise import Factorised, factorise
from onnx_tucker.fitting.rough import Rough
from onnx_tucker.job import Job
from onnx_tucker.measure import in_situ
from onnx_tucker.outcome import Outcome, report
from onnx_tucker.planning.groups import members
from onnx_tucker.planning.pricing import Decision, choice_of
from onnx_tucker.planning.race import MODEL_TIGHT
from onnx_tucker.planning.replay import planned_candidate
from onnx_tucker.promises import Promises, Verdict
from onnx_tucker.report.schema import Change, Report
from onnx_tucker.runtime.session import FAILURES, first_line
from onnx_tucker.runtime.timing import Timing, warn_if_noisy
from onnx_tucker.types import Basis, Candidate, Closeness, Plan

logger = logging.getLogger(__name__)

COMPARED_SECONDS = 3.0
"""Time spent at most on comparing the whole model before and after."""


@dataclass(frozen=True, eq=False)
class Made:
    """A decision and the model that it gives.

    Attributes:
        decision: what became of the nodes.
        result: the model.
        timings: of the whole model before and after, or None.
        slower: whether chains had to be given back for the time of the whole model.
    """

    decision: Decision
    result: Factorised
    timings: list[Timing] | None = None
    slower: bool = False

    def plan(self, job: Job) -> Plan:
        """The plan that gives this model again."""
        fitted = trust.usable(job) and any(candidate.method for candidate in self.result.planned.values())
        basis = self.result.basis if fitted else None
        return replace(self.decision.plan, basis=basis)


def make(job: Job, decision: Decision, basis: Basis | None = None, rough: Rough | None = None) -> Made:
    """Carries a decision out, but for chains that do not pay; see `paying` and `fitted`."""
    return fitted(job, paying(job, decision), basis, rough)


def paying(job: Job, decision: Decision) -> Made:
    """The model of a decision with chains from its weights alone, less those that do not pay in time.

    What chains are fitted to does not change what they take, so that it is known before which are worth to be.
    Nodes that are slower within the model than they were are given back, and while the whole model measures slower, the
    weaker half of the chains.

    Args:
        job: the run.
        decision: what nodes become.
    """
    made = timed(job, Made(decision, factorise(job, candidates_of(job, decision), "weights")))
    if made.result.weights and made.timings and not (job.settings.insists or job.settings.plan is not None):
        made = _without_slow(job, made)
    return _not_slower(job, made)


def fitted(job: Job, made: Made, basis: Basis | None = None, rough: Rough | None = None) -> Made:
    """The same model with chains that change its outputs least.

    Args:
        job: the run.
        made: one whose chains are from its weights.
        basis: what chains are made from if the plan does not say; None for what is closest.
        rough: the rough models of the search that found the decision, if one did.
    """
    return replace(made, result=(rough or Rough(job)).closest(made.result, made.decision.plan.basis or basis))


def outlined(job: Job, made: Made, closeness: Sequence[Closeness] | None = None) -> Report:
    """A report on a model, without what is measured of single nodes within it.

    Args:
        job: the run.
        made: the model.
        closeness: of its outputs, if it was measured.
    """
    result, sizes = made.result, Change(job.size, made.result.file_bytes(job))
    outcome = Outcome(made.decision, result.errors, made.timings, closeness, sizes, result.biases)
    return report(job, outcome)


def planned_only(job: Job, decision: Decision) -> Made:
    """A decision that is not carried out, and the time of the model as it is."""
    made = timed(job, Made(decision, Factorised(job.model, {}, {}, {})))
    return replace(made, timings=made.timings and made.timings[:1])


def hold(job: Job, made: Made, promises: Promises) -> tuple[Made, Verdict]:
    """Gives chains back until the promises on the outputs hold.

    Those come first that cost most of the outputs for the time that they save; as many as it takes, and more where the
    score held by chance.

    Raises:
        PromiseError: they hold with none of the chains.
    """
    verdict = promises.verify(made.result)
    if not verdict.broken:
        return made, verdict
    if job.settings.plan is not None:
        raise PromiseError(verdict.broken)
    logger.info("%s Chains are given back.", verdict.broken)
    order = _costliest(job, made.result, promises, _saved(job, made))
    held, last = _fewest(job, made, verdict, promises, order)
    if held is None:  # what saves most may be what breaks it, and what makes up for others costs more alone
        each = made.result
        if each.basis != "weights":
            each = factorise(job, candidates_of(job, made.decision), "weights", alone=True)
        held, last = _fewest(job, made, verdict, promises, _costliest(job, each, promises))
    if held is None:
        less = " It is broken even with a single chain left; allow more, or raise the ranks or the budget."
        raise PromiseError(f"{last.broken}{less if order and last.closeness else ''}")
    verdict = last
    held = timed(job, held)
    final = _not_slower(job, held)
    if final is not held:
        verdict = promises.verify(final.result)
    if verdict.broken:
        raise PromiseError(verdict.broken)
    return final, verdict


def _fewest(
    job: Job, made: Made, verdict: Verdict, promises: Promises, order: Sequence[str]
) -> tuple[Made | None, Verdict]:
    """The model without as few of the first chains of an order as the promises hold with, and what it is found to be.

    None where they hold with none, and what the model with the last chain is found to be.
    """
    tried, trusts = {0: (made, verdict)}, trust.Trusts(made.result.planned)

    def less(number: int, trusts: trust.Trusts | None = None) -> tuple[Made, Verdict]:
        reasons = dict.fromkeys(order[:number], "given back, as a promise would not hold")
        found = _with_less(job, made, reasons, trusts)
        return found, promises.verify(found.result)

    def holds(number: int) -> bool:
        if number not in tried:
            job.progress("giving chains back", len(tried) - 1, math.ceil(math.log2(len(order) + 1)))
            tried[number] = less(number, trusts)
        return not tried[number][1].broken

    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    if high >= len(order):
        return None, tried[low][1]
    firm = (
        number
        for number in range(high, len(order))
        if holds(number) and not promises.lucky([tried[n][1] for n in range(low, number + 1)])
    )
    number = next(firm, high)
    if made.result.basis == "weights":
        return tried[number]
    last = tried[number][1]
    for further in range(number, len(order)):  # what was tried may differ a little
        found, last = less(further)
        if not last.broken:
            return found, last
    return None, last


def _costliest(job: Job, made: Factorised, promises: Promises, saved: Mapping[str, float] | None = None) -> list[str]:
    """The first of the nodes of each chain, those first that cost most of the outputs, for what they save if given."""
    chains = [label for label in made.changed if made.planned[label].method]
    leaders = [f for f in job.found if f.label in chains and f.group == f.label]
    groups = {found.label: members(job, found) for found in leaders}
    lost = {label: promises.cost(made.only(job, group)) for label, group in groups.items()}
    saving = {label: sum(saved[n] for n in group) if saved else 1.0 for label, group in groups.items()}
    return sorted(groups, key=lambda label: -lost[label] / max(saving[label], 1e-9))


def _saved(job: Job, made: Made) -> dict[str, float]:
    """What each chain saves: milliseconds, or where any was not timed, multiplications of its node, or weights."""
    prices = {label: made.decision.prices.get(label) for label in made.result.changed}
    times = {label: price.before.ms - price.after.ms for label, price in prices.items() if price and price.after}
    if len(times) == len(prices):
        return times
    readings = {found.label: found.reading for found in job.found}
    return {n: float(r.layer.macs if (r := readings[n]).layer else r.params or 0) for n in made.result.changed}


def _not_slower(job: Job, made: Made) -> Made:
    """Gives back the weaker half of the chains while the whole model measures slower."""
    while made.result.weights and made.timings and made.timings[1].speedup < 1:
        if job.settings.keep_slower or job.settings.plan is not None:
            logger.warning("The result is slower than the input, as asked: x%.2f.", made.timings[1].speedup)
            break
        ordered = sorted(made.result.changed, key=_saved(job, made).__getitem__)
        weak = ordered[: -(-len(ordered) // 2)]
        reason = f"given back, the whole model measured x{made.timings[1].speedup:.2f}"
        logger.info("%s: %s", ", ".join(sorted(weak)), reason)
        made = timed(job, replace(_with_less(job, made, dict.fromkeys(weak, reason)), slower=True))
    return made


def _without_slow(job: Job, made: Made) -> Made:
    """Gives back the nodes that are slower within the model than they were, if it is faster without them."""
    before, after = in_situ(job, job.model), in_situ(job, made.result.model)
    if not before or not after:
        return made
    slow = {n: before[n] / after[n] for n in made.result.changed if after.get(n, 0) > before.get(n, math.inf)}
    if not slow:
        return made
    reasons = {name: f"measured x{speedup:.2f} within the model" for name, speedup in slow.items()}
    other = _with_less(job, made, reasons)
    if not other.result.weights:
        return made
    models = [one.result.model.SerializeToString(deterministic=True) for one in (made, other)]
    [_, with_less] = job.stopwatch.compare(models, job.timed_feed or {}, COMPARED_SECONDS, job.folder, MODEL_TIGHT)
    if with_less.speedup_ci[0] <= 1:
        return made
    logger.info("%s: slower within the model", ", ".join(sorted(slow)))
    return timed(job, other)


def _with_less(job: Job, made: Made, reasons: Mapping[str, str], trusts: trust.Trusts | None = None) -> Made:
    """The model without some of its chains. Those that were fitted behind others are fitted anew.

    Args:
        job: the run.
        made: the model.
        reasons: why chains are given back, by the label of their node.
        trusts: how far the data of nodes is trusted, if it is only tried; else it is made as its plan would make it.
    """
    decision, basis = _given_back(job, made.decision, reasons), made.result.basis
    candidates = candidates_of(job, decision)
    less = Made(decision, made.result, slower=made.slower)
    if basis == "weights":
        return replace(less, result=made.result.only(job, candidates))
    if trusts is not None:
        return replace(less, result=factorise(job, candidates, basis, trusts=trusts))
    return fitted(job, replace(less, result=factorise(job, candidates, "weights")), basis)


def _given_back(job: Job, decision: Decision, reasons: Mapping[str, str]) -> Decision:
    """The decision with some nodes, and those that share their weights, kept after all, for these reasons."""
    groups = {f.group: reasons[f.label] for f in job.found if f.label in reasons}
    choices = tuple(
        choice_of(f, None, groups[f.group]) if f.group in groups else c
        for f, c in zip(job.found, decision.plan.choices, strict=True)
    )
    kept = {f.label for f in job.found if f.group in groups}
    prices = {name: replace(price, after=None) if name in kept else price for name, price in decision.prices.items()}
    return Decision(Plan(choices), prices)


def candidates_of(job: Job, decision: Decision) -> dict[str, Candidate]:
    """The candidates of a decision, by node."""
    pairs = zip(job.found, decision.plan.choices, strict=True)
    return {f.label: planned_candidate(job.context, f, choice) for f, choice in pairs if choice.form}


def timed(job: Job, made: Made) -> Made:
    """A model with the times of the whole of it and of the original, if it is timed."""
    return replace(made, timings=_times(job, made.result))


def _times(job: Job, made: Factorised) -> list[Timing] | None:
    feed = job.timed_feed
    if not job.settings.benchmark or feed is None:
        return None
    job.progress("timing the whole model", 0, 1)
    contents = [job.content]
    if made.weights:
        contents.append(made.model.SerializeToString(deterministic=True))
    try:
        timings = job.stopwatch.compare(contents, feed, COMPARED_SECONDS, job.folder, MODEL_TIGHT)
    except FAILURES as error:
        raise TuckerError(f"onnxruntime cannot run the result, please report this: {first_line(error)}") from error
    warn_if_noisy(timings)
    job.progress("timing the whole model", 1, 1)
    return timings if made.weights else timings * 2  # comparing a model with itself would only report noise
