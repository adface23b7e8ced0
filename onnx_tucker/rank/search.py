"""Which candidates a site has, and which of them is taken."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_tucker.cost import chain_cost
from onnx_tucker.errors import PlanError
from onnx_tucker.factor import METHODS, Method, Spectra
from onnx_tucker.rank.fixed import Fixed
from onnx_tucker.rank.given import Given
from onnx_tucker.rank.rules import Rule
from onnx_tucker.types import Candidate, Ranks, Site

BLOCKS = (4, 8, 16)
"""Channels that kernels compute together: ranks that fill whole blocks can take less time than smaller ones."""
CHANNELS = {"in", "out", "matrix"}
"""Modes of which a rank is a number of channels."""
ALIKE = 1.05
"""How much larger the error may be at ranks that are tried for their speed."""
TIE = 1.1
"""Candidates within this factor of the cheapest count as equally cheap; the most accurate of them is taken."""


def candidates(site: Site, rule: Rule) -> list[Candidate] | str:
    """The methods that apply and save something at the rule's ranks, or why there are none.

    Args:
        site: the site.
        rule: one that has a policy.

    Raises:
        PlanError: the rule asks this very node for a rank above its size, or for a method that cannot factorise it.
    """
    assert rule.policy is not None
    given = isinstance(rule.policy, Given)  # whoever chose them knows what they cost, and nothing is to choose
    spectra = Spectra(site.read(), site.stage.groups)
    found, reasons = [], []
    for method in _methods(site, rule):
        ranks = rule.policy.ranks(spectra, site.stage, method)
        if isinstance(ranks, str):
            reasons.append(ranks)
            continue
        if ranks == method.dimensions(site.stage):
            reasons.append("full rank, nothing to truncate")
            continue
        if given:
            found.append(Candidate(method.name, ranks, method.stages(site.stage, ranks)))
            continue
        near = [r for block in BLOCKS for r in rule.policy.aligned(site.stage, method, ranks, block)]
        worst = ALIKE * method.error_bound(spectra, ranks)
        every = [r for r in dict.fromkeys([ranks, *near]) if _saves(site, method, r)]
        tried = [(r, method.error_bound(spectra, r)) for r in every]
        found += [Candidate(method.name, r, method.stages(site.stage, r), e) for r, e in tried if e <= worst]
        if not tried:
            reasons.append(f"{method.name} at rank {','.join(map(str, ranks))} saves nothing")
    return _undominated(site, found) or "; ".join(dict.fromkeys(reasons)) or "no method applies"


def cheapest(found: Sequence[Candidate], costs: Sequence[float]) -> int:
    """Index of the most accurate among the candidates that are about as cheap as the cheapest."""
    limit = TIE * min(costs)
    return min((i for i, cost in enumerate(costs) if cost <= limit), key=lambda i: (found[i].predicted_error, costs[i]))


def count(site: Site, candidate: Candidate) -> int:
    """What a candidate costs as far as it can be counted: its MACs, or its weights where the shape is not known."""
    cost = chain_cost(site, candidate.stages, "exact")
    return cost.params if cost.macs is None else cost.macs


def _undominated(site: Site, found: list[Candidate]) -> list[Candidate]:
    """Leaves out candidates that another one beats in cost and is no worse than in error."""
    return [
        a
        for a in found
        if not any(count(site, b) < count(site, a) and b.predicted_error <= a.predicted_error for b in found)
    ]


def _methods(site: Site, rule: Rule) -> list[Method]:
    if rule.method is None:
        # Ranks that are given as numbers are those of channels.
        given = isinstance(rule.policy, Fixed)
        methods = [m for m in METHODS.values() if m.applies(site.stage) and (not given or set(m.modes) <= CHANNELS)]
    else:
        methods = [METHODS[rule.method]]
        if not methods[0].applies(site.stage, by_name=True):
            raise PlanError(f"Node {site.name!r}: {rule.method} cannot factorise a weight of shape {site.stage.shape}.")
    if rule.exact and isinstance(rule.policy, Fixed):
        for method in methods:
            check_ranks(site, method, rule.policy.wanted(method))
    return methods


def check_ranks(site: Site, method: Method, ranks: Ranks) -> None:
    """Checks ranks that were written for one node.

    Raises:
        PlanError: the number of ranks is wrong, or one is not between 1 and the size of its mode.
    """
    sizes = method.dimensions(site.stage)
    if len(ranks) != len(sizes) or any(not 1 <= r <= size for r, size in zip(ranks, sizes, strict=False)):
        raise PlanError(
            f"Node {site.name!r}: the ranks {','.join(map(str, ranks))} do not fit {method.name}, "
            f"whose modes ({', '.join(method.modes)}) have the sizes {','.join(map(str, sizes))}."
        )


def _saves(site: Site, method: Method, ranks: Ranks) -> bool:
    """Whether a chain has fewer weights and fewer multiplications than the site, as far as these are known.

    None at all are counted where what is looked at is empty, as what a detector finds may be.
    """
    before = chain_cost(site, (site.stage,), "exact")
    after = chain_cost(site, method.stages(site.stage, ranks), "exact")
    fewer_macs = not before.macs or after.macs is None or after.macs < before.macs
    return after.params < before.params and fewer_macs
