"""Decides what becomes of every node: candidates from the rank policy, prices from measurement."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_tucker import rank
from onnx_tucker.errors import PlanError
from onnx_tucker.factor import METHODS
from onnx_tucker.forms import FORMS
from onnx_tucker.graph import layer
from onnx_tucker.graph.find import Found
from onnx_tucker.graph.layer import Borders
from onnx_tucker.graph.lower.frames import Frames
from onnx_tucker.graph.lower.layout import Layout, lay_out
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.ops.op import Context
from onnx_tucker.graph.splice import layout_of
from onnx_tucker.job import Job
from onnx_tucker.rank import Rule, Rules, search
from onnx_tucker.runtime.timing import Timing
from onnx_tucker.settings import Settings
from onnx_tucker.tuning import Option, Tuner, alike, forms_of
from onnx_tucker.types import Candidate, Choice, Plan, Skip, Stage, Status, recipe

logger = logging.getLogger(__name__)

WORTHWHILE = 1.03
"""How much faster another form, or another layout, has to be, so that noise alone never changes a node."""


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
    unused = rules.unused({f.place.label for f in job.found})
    if unused:
        raise PlanError(f"The ranks file names {unused[0]!r}, but the model has no such linear node.")
    _check_globs(job)
    tuner, menus = Tuner(job), list[Menu]()
    groups = sorted(_groups(job).values(), key=_macs, reverse=True)  # if time runs out, on the small ones
    for i, group in enumerate(groups):
        job.progress("timing layers", i, len(groups))
        menus.append(_menu(job, tuner, group, rules))
    job.progress("timing layers", len(groups), len(groups))
    decision = _verdict(job, tuner, menus, _on_frames(job, tuner, menus))
    for choice in decision.plan.choices:
        logger.info("%s: %s", choice.name, choice.reason or recipe(choice.method, choice.ranks, choice.form))
    return decision


def _groups(job: Job) -> dict[str, list[Found]]:
    """The nodes that share a weight, or stand alone, by the label of the first."""
    groups: dict[str, list[Found]] = {}
    for found in job.found:
        groups.setdefault(found.group, []).append(found)
    return groups


def _macs(group: Sequence[Found]) -> int:
    return sum(found.reading.layer.macs for found in group if found.reading.layer)


@dataclass(frozen=True)
class Menu:
    """What the nodes that share a weight, or one alone, could become.

    Attributes:
        group: the nodes.
        reason: why none of it is a chain; empty where one is.
        chains: the chains, in the nodes' own form.
        options: all that was timed, the node as it is first; empty where nothing was.
    """

    group: list[Found]
    reason: str
    chains: list[Candidate]
    options: list[Option]

    @property
    def label(self) -> str:
        """Label of the first node."""
        return self.group[0].place.label

    def pick(self, settings: Settings, *, on_frames: bool) -> Option | None:
        """The best with, or without, frames: a chain if it is worth its error, else what takes the least time."""
        if not self.options:
            return self._untimed() if not on_frames else None
        before = self.options[0].ms
        exact = [o for o in self.options if o.kind == (on_frames, False)]
        chains = [o for o in self.options if o.kind == (on_frames, True)]
        fastest = min(exact, key=lambda o: o.ms, default=None)
        if fastest and not on_frames and fastest.ms * WORTHWHILE > before:
            fastest = self.options[0]
        if not chains:
            return fastest
        chain = chains[search.cheapest([o.candidate for o in chains], [o.ms for o in chains])]
        slower = chain.ms * settings.min_speedup > before or (fastest is not None and chain.ms > fastest.ms)
        return fastest if slower and not settings.keep_slower else chain

    def _untimed(self) -> Option | None:
        if not self.chains:
            return None
        costs = [float(sum(search.count(found.site, c) for found in self.group)) for c in self.chains]
        best = search.cheapest(self.chains, costs)
        return Option(self.chains[best], costs[best])


def _menu(job: Job, tuner: Tuner, group: list[Found], rules: Rules) -> Menu:
    first = group[0].reading.found
    if isinstance(first, Skip):
        return Menu(group, first.reason, [], [])
    excluded = _left_out(job, group, rules)
    chains = excluded or _chains(group, rules)
    reason, candidates = (chains, []) if isinstance(chains, str) else ("", chains)
    options = tuner.options(group, candidates, lower=job.settings.lower and not excluded)
    return Menu(group, reason, candidates, options)


def _on_frames(job: Job, tuner: Tuner, menus: Sequence[Menu]) -> set[str]:
    """Labels of the groups that are best on frames, with conversions between layouts in the sum: a local search.

    It starts from as much, and from as little, on frames as there can be, and moves one group at a time.
    """
    direct = {m.label: m.pick(job.settings, on_frames=False) for m in menus}
    frames = {m.label: m.pick(job.settings, on_frames=True) for m in menus}
    movable = [label for label, pick in frames.items() if pick]
    conversions = _Conversions(job, tuner)
    members = {m.label: {f.place.label for f in m.group} for m in menus}

    def cost(on: set[str]) -> float:
        labels = set[str]().union(*(members[label] for label in on))
        alone = sum(pick.ms for label in movable if (pick := (frames if label in on else direct)[label]))
        return alone + conversions.ms(lay_out(job.context, labels, Names(onnx.ModelProto())))

    best: set[str] = set()
    least = cost(best) if movable else 0.0
    for start in (set[str](), set(movable)):
        on, current, moved = start, cost(start) if start else least, True
        while moved:
            moved = False
            for label in movable:
                other = on ^ {label}
                changed = cost(other)
                if changed < current:
                    on, current, moved = other, changed, True
        if current * WORTHWHILE < least:
            best, least = on, current
    return best


class _Conversions:
    """What conversions between values and frames cost."""

    def __init__(self, job: Job, tuner: Tuner) -> None:
        self._job, self._tuner = job, tuner
        self._known: dict[str, tuple[float, float]] = {}

    def ms(self, layout: Layout) -> float:
        """Of all conversions of a layout together."""
        entered = sum(self._of(value, entry.frames)[0] for value, entry in layout.entered.items())
        return entered + sum(self._of(value, layout.made[value])[1] for value in layout.left)

    def _of(self, value: str, frames: Frames) -> tuple[float, float]:
        if value not in self._known:
            self._known[value] = self._tuner.conversion(self._job.context.shapes[value], frames)
        return self._known[value]


def _verdict(job: Job, tuner: Tuner, menus: Sequence[Menu], framed: set[str]) -> Decision:
    """Times every node as it is going to be; those that turn out slower after all leave the frames, or are kept."""
    kept, reasons = set[str](), dict[str, str]()
    while True:
        changed: dict[str, Candidate] = {}
        for menu in menus:
            pick = menu.pick(job.settings, on_frames=menu.label in framed)
            if pick and pick.candidate.changes and menu.label not in kept:
                changed |= {f.place.label: pick.candidate for f in menu.group}
        prices = price(job, tuner, changed)
        slow = _slow(job, menus, changed, prices)
        if not slow:
            break
        reasons |= slow
        leaders = {menu.label for menu in menus if menu.label in slow}
        kept |= leaders - framed
        framed = framed - leaders
    choices = {}
    for menu in menus:
        for found in menu.group:
            label = found.place.label
            last = "" if label in changed else reasons.get(label, "")
            choices[label] = choice_of(found, changed.get(label), last or menu.reason or _beaten(menu))
    return Decision(Plan(tuple(choices[f.place.label] for f in job.found)), prices)


def _slow(
    job: Job, menus: Sequence[Menu], changed: Mapping[str, Candidate], prices: Mapping[str, Price]
) -> dict[str, str]:
    """The changed nodes that are slower than they were, unless they are kept as asked, and why."""
    slow: dict[str, str] = {}
    if job.settings.keep_slower:
        return slow
    for menu in menus:
        labels = [f.place.label for f in menu.group if f.place.label in changed]
        timed = [prices[label] for label in labels if label in prices]
        if not labels or len(timed) < len(labels):
            continue
        least = job.settings.min_speedup if changed[labels[0]].method else 1.0
        speedup = together(timed)
        if speedup < least:
            slow |= dict.fromkeys(labels, f"measured x{speedup:.2f} with {changed[labels[0]]}")
    return slow


def _beaten(menu: Menu) -> str:
    """Why a group that has chains is none."""
    chains = [o for o in menu.options if o.candidate.method]
    if not chains:
        return ""
    before, best = menu.options[0].ms, min(chains, key=lambda o: o.ms)
    exact = min((o for o in menu.options if o.candidate.method is None), key=lambda o: o.ms)
    without = f", x{before / exact.ms:.2f} without loss" if exact.candidate.changes else ""
    return f"measured x{before / best.ms:.2f} with {best.candidate}{without}"


def price(job: Job, tuner: Tuner, changed: Mapping[str, Candidate]) -> dict[str, Price]:
    """Times of all nodes alone: as they were, and as what they become, with the conversions that fall to them."""
    layout = layout_of(job.context, changed, Names(onnx.ModelProto()))
    prices = {}
    for found in job.found:
        label = found.place.label
        if isinstance(found.reading.found, Skip):
            continue
        entry = layout.entered.get(layer.activations(found))
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
    reading, node = found.reading.found, found.place.node
    if isinstance(reading, Skip):
        return Choice(reading.name, reading.op, None, "skipped", reading.reason)
    kept = Choice(reading.name, node.op_type, reading.stage.shape, "kept", reason)
    if candidate is None:
        return kept
    status: Status = "factorized" if candidate.method else "lowered"
    known = "" if candidate.method else reason
    return replace(
        kept, status=status, reason=known, method=candidate.method, form=candidate.form, ranks=candidate.ranks
    )


def replay(job: Job, plan: Plan) -> Decision:
    """Takes a plan as it is, and times what it changes.

    Raises:
        PlanError: the plan was made for a model with other nodes.
    """
    known = {f.place.label: f for f in job.found}
    planned = {c.name: c for c in plan.choices}
    for name in sorted(known.keys() ^ planned.keys()):
        where = "the plan has" if name in planned else "the model has"
        raise PlanError(f"The plan is for another model: only {where} a node {name!r}.")
    for group in _groups(job).values():
        recipes = {(c.method, c.ranks, c.form) for c in (planned[f.place.label] for f in group)}
        framed = any(form in FORMS and FORMS[form].on_frames for _, _, form in recipes if form)
        if len(recipes) > 1 or (framed and not alike(group)):
            names = " and ".join(repr(f.place.label) for f in group[:2])
            raise PlanError(f"The plan treats {names} differently, but they share a weight.")
    candidates = {name: planned_candidate(job.context, known[name], c) for name, c in planned.items() if c.form}
    return Decision(Plan(tuple(planned[name] for name in known)), price(job, Tuner(job), candidates))


def planned_candidate(context: Context, found: Found, choice: Choice) -> Candidate:
    """The candidate that a choice stands for.

    Raises:
        PlanError: the node is not the one that the plan was made for.
    """
    reading = found.reading.found
    if isinstance(reading, Skip):
        raise PlanError(f"The plan changes {choice.name!r}, but it cannot be: {reading.reason}.")
    if choice.shape != reading.stage.shape or choice.op != reading.op:
        raise PlanError(
            f"The plan is for another model: its {choice.name!r} is a {choice.op} of shape {choice.shape}, "
            f"here it is a {reading.op} of shape {reading.stage.shape}."
        )
    if (choice.method and choice.method not in METHODS) or choice.form not in FORMS:
        raise PlanError(f"The plan asks for {choice.method} ({choice.form}) at {choice.name!r}, which is unknown.")
    stages: tuple[Stage, ...] = (reading.stage,)
    if choice.method and choice.ranks:
        method = METHODS[choice.method]
        if not method.applies(reading.stage, by_name=True):
            raise PlanError(f"The plan asks for {choice.method} at {choice.name!r}, which does not apply to its shape.")
        search.check_ranks(reading, method, choice.ranks)
        stages = method.stages(reading.stage, choice.ranks)
    if FORMS[choice.form] not in forms_of(context, found, stages):
        raise PlanError(f"The plan asks for {choice.form} at {choice.name!r}, which does not fit it.")
    return Candidate(choice.method, choice.ranks, stages, 0.0, choice.form)


def give_back(job: Job, decision: Decision, reasons: Mapping[str, str]) -> Decision:
    """The decision with some nodes, and those that share their weights, kept after all, for these reasons."""
    groups = {f.group: reasons[f.place.label] for f in job.found if f.place.label in reasons}
    choices = tuple(
        choice_of(f, None, groups[f.group]) if f.group in groups else c
        for f, c in zip(job.found, decision.plan.choices, strict=True)
    )
    kept = {f.place.label for f in job.found if f.group in groups}
    prices = {name: replace(price, after=None) if name in kept else price for name, price in decision.prices.items()}
    return Decision(Plan(choices), prices)


def _left_out(job: Job, group: Sequence[Found], rules: Rules) -> str:
    """Why a group is not to be touched at all; empty where it may be."""
    for found in group:
        excluded = _excluded(found, job.settings)
        if excluded:
            return f"its weight is also that of {found.place.label}, {excluded}" if len(group) > 1 else excluded
    rule = _rule(group, rules)
    return "kept as asked" if rule and rule.policy is None else ""


def _chains(group: Sequence[Found], rules: Rules) -> list[Candidate] | str:
    """The candidates of nodes that share a weight, or why there are none."""
    rule = _rule(group, rules)
    return "the ranks file does not name it" if rule is None else search.candidates(group[0].site, rule)


def _rule(group: Sequence[Found], rules: Rules) -> Rule | None:
    return next(filter(None, (rules.rule(found.place.label) for found in group)), None)


def _excluded(found: Found, settings: Settings) -> str:
    label = found.place.label
    if settings.op_types and found.place.node.op_type not in settings.op_types:
        return "left out by --op-types"
    if settings.include and not any(_matches(label, pattern) for pattern in settings.include):
        return "left out by --include"
    return "left out by --exclude" if any(_matches(label, pattern) for pattern in settings.exclude) else ""


def _check_globs(job: Job) -> None:
    for pattern in (*job.settings.include, *job.settings.exclude):
        if not any(_matches(found.place.label, pattern) for found in job.found):
            logger.warning("No node matches %r of --include or --exclude.", pattern)


def _matches(label: str, pattern: str) -> bool:
    return label == pattern or fnmatch.fnmatchcase(label, pattern)


def rules_of(settings: Settings) -> Rules:
    """The rules that `--ranks` stands for."""
    return rank.parse_ranks(settings.ranks_text)
