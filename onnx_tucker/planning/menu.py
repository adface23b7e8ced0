"""What the nodes could become: the options that the rank policy and the forms give them, and their times alone."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from onnx_tucker.errors import PlanError
from onnx_tucker.graph.find import Found, macs
from onnx_tucker.job import Job
from onnx_tucker.planning.groups import excluded, matches, sharing
from onnx_tucker.planning.tuning import Option, Tuner
from onnx_tucker.planning.ways import lowerable
from onnx_tucker.rank import search
from onnx_tucker.rank.rules import Rules
from onnx_tucker.settings import Settings
from onnx_tucker.types import Candidate

logger = logging.getLogger(__name__)

WORTHWHILE = 1.03
"""How much faster another form, or another layout, has to be, so that noise alone never changes a node."""
CLOSE = 1.25
"""By how much times of layers alone may differ where the whole model may tell them to be the other way round."""


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
        return self.group[0].label

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
        if not settings.insists:
            most = math.inf if fastest is None else fastest.ms
            chains = [o for o in chains if o.ms * settings.min_speedup <= before and o.ms <= most]
        return chains[search.cheapest([o.candidate for o in chains], [o.ms for o in chains])] if chains else fastest

    def _untimed(self) -> Option | None:
        if not self.chains:
            return None
        costs = [float(sum(search.count(found.site, c) for found in self.group)) for c in self.chains]
        best = search.cheapest(self.chains, costs)
        return Option(self.chains[best], costs[best])

    def rivals(self, pick: Option, settings: Settings) -> list[Option]:
        """The options that take about as long alone as one of them, and may be taken in its place."""

        def may(option: Option) -> bool:
            chain = option.candidate.method is not None
            return chain <= (pick.candidate.method is not None) and (chain or not settings.insists)

        return [o for o in self.options if o != pick and may(o) and o.ms <= CLOSE * pick.ms]

    def beaten(self, settings: Settings) -> str:
        """Why it is no chain after all, though there are some."""
        chains = [o for o in self.options if o.candidate.method]
        if not chains:
            return ""
        before, best = self.options[0].ms, min(chains, key=lambda o: o.ms)
        exact = min((o for o in self.options if o.candidate.method is None), key=lambda o: o.ms)
        without = f", x{before / exact.ms:.2f} without loss" if exact.candidate.changes else ""
        worth = best.ms < exact.ms and best.ms * settings.min_speedup <= before
        within = " alone, but no faster within the whole model" if worth else ""
        return f"measured x{before / best.ms:.2f} with {best.candidate}{within}{without}"


def menus(job: Job, tuner: Tuner, rules: Rules) -> list[Menu]:
    """The menus of all nodes, those with most arithmetic first.

    Raises:
        PlanError: the rules name a node that is not there, or ranks that do not fit it.
    """
    unused = rules.unused({f.label for f in job.found})
    if unused:
        raise PlanError(f"The ranks name {unused[0]!r}, but the model has no such linear node.")
    _check_globs(job)
    made = []
    groups = sorted(sharing(job).values(), key=macs, reverse=True)  # if time runs out, on the small ones
    for i, group in enumerate(groups):
        job.progress("timing layers", i, len(groups))
        made.append(_menu(job, tuner, group, rules))
    job.progress("timing layers", len(groups), len(groups))
    return made


def _menu(job: Job, tuner: Tuner, group: list[Found], rules: Rules) -> Menu:
    rule = next(filter(None, (rules.rule(found.label) for found in group)), None)
    asked = "kept as asked" if rule and rule.policy is None else ""
    left_out = excluded(job.settings, group) or asked
    if group[0].skipped:
        return Menu(group, group[0].skipped, [], []) if left_out else only_lowered(job, tuner, group)
    chains = left_out or ("the ranks do not name it" if rule is None else search.candidates(group[0].site, rule))
    reason, candidates = (chains, []) if isinstance(chains, str) else ("", chains)
    options = tuner.options(group, candidates, lower=job.settings.lower and not left_out)
    return Menu(group, reason, candidates, options)


def only_lowered(job: Job, tuner: Tuner, group: list[Found]) -> Menu:
    """The menu of nodes that cannot be factorised: other forms of them as they are, if there are any."""
    may = job.settings.lower and lowerable(job.context, group[0])
    return Menu(group, group[0].skipped, [], tuner.options(group, [], lower=True) if may else [])


def _check_globs(job: Job) -> None:
    for pattern in (*job.settings.include, *job.settings.exclude):
        if pattern not in job.warned and not any(matches(found.label, pattern) for found in job.found):
            job.warned.add(pattern)
            logger.warning("No node matches %r of --include or --exclude.", pattern)
