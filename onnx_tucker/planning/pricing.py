"""Decides what becomes of every node: candidates from the rank policy, prices from measurement."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_tucker.graph.find import Found
from onnx_tucker.graph.layer import Borders
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.splice import layout_of
from onnx_tucker.job import Job
from onnx_tucker.planning.arrange import arrange, becoming
from onnx_tucker.planning.menu import Menu, menus
from onnx_tucker.planning.tuning import Option, Tuner
from onnx_tucker.rank.rules import Rules
from onnx_tucker.runtime.timing import Timing
from onnx_tucker.types import Candidate, Choice, Plan, Status, recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Price:
    """Measured times of a node alone; `after` is None where it is not factorised."""

    before: Timing
    after: Timing | None = None


@dataclass(frozen=True)
class Decision:
    """The plan, and what was measured on the way, by node."""

    plan: Plan
    prices: Mapping[str, Price]


def decide(job: Job, rules: Rules) -> Decision:
    """Chooses for every weight-bearing node by the rules and by measurement.

    Raises:
        PlanError: the rules name a node that is not there, or ranks that do not fit it.
    """
    tuner = Tuner(job)
    offered = menus(job, tuner, rules)
    decision = _verdict(job, tuner, offered, arrange(job, tuner, offered))
    for choice in decision.plan.choices:
        logger.info("%s: %s", choice.name, choice.reason or recipe(choice.method, choice.ranks, choice.form))
    return decision


def _verdict(job: Job, tuner: Tuner, offered: Sequence[Menu], picks: Mapping[str, Option]) -> Decision:
    """Times every node as it is going to be; those that turn out slower after all leave the frames, or are kept."""
    left, reasons = dict(picks), dict[str, str]()
    while True:
        changed = becoming(offered, left)
        prices = price(job, tuner, changed)
        slow = _slow(job, offered, changed, prices)
        if not slow:
            break
        reasons |= slow
        for menu in offered:
            if menu.label in slow:
                beaten = left.pop(menu.label)
                other = menu.pick(job.settings, on_frames=False) if beaten.kind[0] else None
                left |= {menu.label: other} if other else {}
    choices = {}
    for menu in offered:
        for found in menu.group:
            label = found.label
            last = "" if label in changed else reasons.get(label, "")
            choices[label] = choice_of(found, changed.get(label), last or menu.reason or menu.beaten(job.settings))
    return Decision(Plan(tuple(choices[f.label] for f in job.found)), prices)


def _slow(
    job: Job, offered: Sequence[Menu], changed: Mapping[str, Candidate], prices: Mapping[str, Price]
) -> dict[str, str]:
    """The changed nodes that are slower than they were, unless they are kept as asked, and why."""
    slow: dict[str, str] = {}
    if job.settings.insists:
        return slow
    for menu in offered:
        labels = [f.label for f in menu.group if f.label in changed]
        timed = [prices[label] for label in labels if label in prices]
        if not labels or len(timed) < len(labels):
            continue
        least = job.settings.min_speedup if changed[labels[0]].method else 1.0
        speedup = together(timed)
        if speedup < least:
            slow |= dict.fromkeys(labels, f"measured x{speedup:.2f} with {changed[labels[0]]}")
    return slow


def price(job: Job, tuner: Tuner, changed: Mapping[str, Candidate]) -> dict[str, Price]:
    """Times of all nodes alone: as they were, and as what they become, with the conversions that fall to them."""
    layout = layout_of(job.context, changed, Names(onnx.ModelProto()))
    prices = {}
    for found in job.found:
        label = found.label
        if not found.is_site and label not in changed:
            continue
        entry = layout.entered.get(found.input)
        borders = Borders(bool(entry and entry.first == label), found.place.node.output[0] in layout.left)
        timings = tuner.compare(found, changed.get(label), borders)
        if timings:
            prices[label] = Price(*timings)
    return prices


def together(prices: Sequence[Price]) -> float:
    """How much faster nodes are together; of one alone, the median of its rounds."""
    after = [p.after for p in prices if p.after]
    if len(after) == 1:
        return after[0].speedup
    return sum(p.before.ms for p in prices) / sum(t.ms for t in after)


def choice_of(found: Found, candidate: Candidate | None, reason: str) -> Choice:
    """The choice that makes a node what a candidate is, or keeps it for a reason."""
    if candidate is None and found.skipped:
        return Choice(found.label, found.place.node.op_type, None, "skipped", found.skipped)
    kept = Choice(found.label, found.place.node.op_type, found.site.stage.shape, "kept", reason)
    if candidate is None:
        return kept
    status: Status = "factorized" if candidate.method else "lowered"
    known = "" if candidate.method else reason
    return replace(
        kept, status=status, reason=known, method=candidate.method, form=candidate.form, ranks=candidate.ranks
    )
