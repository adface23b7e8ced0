"""Chains fitted to what is seen of their outputs from behind an activation.

What is missed there is lowered by alternating projections: of all outputs that look as they should, those closest to
what the chain gives now are what it is fitted to next. Zhang, Zou, He and Sun, "Accelerating Very Deep Convolutional
Networks for Classification and Detection", TPAMI 2016, section 3.2, alternate likewise, with a penalty in the place of
the projection. As few of the outputs have to move, steps are lengthened for as long as that helps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

import numpy as np

from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.fit import fit
from onnx_tucker.factor.sight import Sight
from onnx_tucker.rows import Rows
from onnx_tucker.types import Array, Candidate, Chain, Site

logger = logging.getLogger(__name__)

ROUNDS = 20
"""How often a chain is fitted again at most."""
LONGER, SHORTER = 1.5, 0.25
"""The factors of a step's length after one that helps and after one that does not."""
ENOUGH = 2e-3
"""Rounds end when one lowers what is missed by less than this share."""
PATIENCE = 2
"""Rounds that may fail to help on the other half of the samples before no further ones are tried."""
PLENTY = 4
"""Rows for each input from which on there are enough of them not to be misled."""
DRAW, FEW_DRAW = 1e-4, 0.1
"""How strongly the present weight draws, relative to the mean square of an input; with fewer rows than that."""


class Task(NamedTuple):
    """What is to be fitted.

    Attributes:
        site: the node.
        candidate: what it becomes.
        sight: what is seen of its outputs.
    """

    site: Site
    candidate: Candidate
    sight: Sight


def refitted(task: Task, chain: Chain, one: Rows, other: Rows) -> Chain:
    """The chain that misses less of what is seen than a given one does.

    Args:
        task: what is fitted.
        chain: where to start; its bias is all that the node adds.
        one: rows of half of the samples.
        other: those of the other half.
    """
    rounds, both = ROUNDS, one + other
    if not _plenty(both):  # each half tells when the fit to the other goes astray
        folds = zip(_missed(task, chain, one, other), _missed(task, chain, other, one), strict=False)
        rounds = _least(map(sum, folds))
    made = list(islice(_descent(task, chain, both), rounds + 1))
    logger.info("%s: misses %.3g of what is seen, not %.3g", task.site.name, made[-1][1], made[0][1])
    return made[-1][0]


def _least(losses: Iterable[float]) -> int:
    """Which of some losses is the least, up to where `PATIENCE` of them in a row were none."""
    best, least = 0, np.inf
    for i, loss in enumerate(losses):
        if loss < least:
            best, least = i, loss
        elif i - best >= PATIENCE:
            break
    return best


def _plenty(rows: Rows) -> bool:
    return bool(rows.known.rows >= PLENTY * rows.patches.shape[2])


def _missed(task: Task, chain: Chain, rows: Rows, others: Rows) -> Iterator[float]:
    """What the chains of a descent on some rows miss on others."""
    seen = task.sight.of(_windows(task, others.wanted))
    return (_loss(task, _outputs(found, others), seen) for found, _ in _descent(task, chain, rows))


def _descent(task: Task, chain: Chain, rows: Rows) -> Iterator[tuple[Chain, float]]:
    """Chains that miss less and less on some rows, from a given one on, and the share they miss."""
    seen = task.sight.of(_windows(task, rows.wanted))
    outputs, step = _outputs(chain, rows), 1.0
    least = _loss(task, outputs, seen)
    yield chain, least
    for _ in range(ROUNDS):
        nearest = task.sight.nearest(_windows(task, outputs), seen).reshape(outputs.shape)
        tried = _fitted(task, chain, rows, outputs + step * (nearest - outputs) - rows.added)
        given = _outputs(tried, rows)
        lost = _loss(task, given, seen)
        if lost < least:
            enough = least - lost < ENOUGH * least
            chain, outputs, least = tried, given, lost
            yield chain, least
            if enough:
                return
            step *= LONGER
        elif step == 1.0:
            return
        else:
            step = max(1.0, step * SHORTER)


def _fitted(task: Task, chain: Chain, rows: Rows, wanted: Array) -> Chain:
    """The chain that gives wanted outputs (groups, rows, out) best, from the present one on."""
    bias = chain.bias
    if bias is not None:
        wanted = wanted - bias.reshape(len(wanted), 1, -1)
    known = rows.known.wanting(rows.patches, wanted)
    draw = DRAW if _plenty(rows) else FEW_DRAW
    goals = known.goals(reconstruct(chain), draw, bias=bias is not None, shrink=draw)
    method, ranks = METHODS[task.candidate.method or ""], task.candidate.ranks or ()
    found = fit(method, task.site.stage, ranks, goals, 1, start=chain)
    return found if bias is None else replace(found, bias=bias + known.bias(reconstruct(found)))


def _outputs(chain: Chain, rows: Rows) -> Array:
    """What arrives at the activation with a chain, (groups, rows, out)."""
    groups, _, width = rows.patches.shape
    weight = reconstruct(chain).reshape(groups, -1, width).astype(rows.patches.dtype)
    found = rows.patches @ weight.swapaxes(1, 2) + rows.added
    return np.asarray(found if chain.bias is None else found + chain.bias.reshape(groups, 1, -1))


def _windows(task: Task, outputs: Array) -> Array:
    """Outputs (groups, rows, out) as (groups, windows, rows of one, out)."""
    groups, _, out = outputs.shape
    return outputs.reshape(groups, -1, task.sight.size, out)


def _loss(task: Task, outputs: Array, seen: Array) -> float:
    """The share of the energy of what is to be seen, about its mean, that outputs miss."""
    energy = float(np.square(seen - seen.mean(1, keepdims=True)).sum())
    return float(np.square(task.sight.of(_windows(task, outputs)) - seen).sum()) / (energy or 1.0)
