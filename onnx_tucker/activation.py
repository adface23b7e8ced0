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
"""Windows for each input from which on there are enough of them not to be misled.

Not values for each parameter of a chain: with 8 of them the first convolution of the thesis network came closer on its
own windows than with a stop in time, .32 against .34 of what is seen, but the model's outputs on other clips did not,
.40 against .34.
"""
DRAW, FEW_DRAW = 1e-4, 0.1
"""How strongly the present weight draws, relative to the mean square of an input; with fewer windows than that."""


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
    return rows.windows >= PLENTY * rows.stage.inp * rows.stage.window.volume


def _missed(task: Task, chain: Chain, rows: Rows, others: Rows) -> Iterator[float]:
    """What the chains of a descent on some rows miss on others."""
    seen = task.sight.of(_windows(task, others.wanted))
    return (_look(task, found, others, seen).lost for found, _ in _descent(task, chain, rows))


def _descent(task: Task, chain: Chain, rows: Rows) -> Iterator[tuple[Chain, float]]:
    """Chains that miss less and less on some rows, from a given one on, and the share they miss."""
    seen = task.sight.of(_windows(task, rows.wanted))
    look, step = _look(task, chain, rows, seen), 1.0
    yield chain, look.lost
    for _ in range(ROUNDS):
        tried = _fitted(task, chain, rows, look, step)
        found = _look(task, tried, rows, seen)
        if found.lost < look.lost:
            enough = look.lost - found.lost < ENOUGH * look.lost
            chain, look = tried, found
            yield chain, look.lost
            if enough:
                return
            step *= LONGER
        elif step == 1.0:
            return
        else:
            step = max(1.0, step * SHORTER)


class _Look(NamedTuple):
    """How the outputs of a chain look from behind.

    Attributes:
        lost: the share of the energy of what is to be seen, about its mean, that they miss.
        missing: the mean of what the nearest outputs that look right have more, (groups, out).
        crossed: the mean of the outer products of that and patches, (groups, out, in * volume).
        patch: the mean of the patches, (groups, in * volume).
    """

    lost: float
    missing: Array
    crossed: Array
    patch: Array


def _look(task: Task, chain: Chain, rows: Rows, seen: Array) -> _Look:
    """How the outputs of a chain look, where `seen` is wanted."""
    groups, count, out = rows.wanted.shape
    weight = reconstruct(chain).reshape(groups, out, -1).astype(rows.parts.dtype)
    lost, summed, given = 0.0, np.zeros((groups, out + 1, weight.shape[2])), np.zeros((groups, out))
    for part, patches in rows.patches():
        outputs = patches @ weight.swapaxes(1, 2) + rows.added[:, part]
        if chain.bias is not None:
            outputs += chain.bias.reshape(groups, 1, out).astype(outputs.dtype)
        windows = _windows(task, outputs)
        wanted = seen[:, part.start // rows.size : part.stop // rows.size]
        lost += float(np.square(task.sight.of(windows) - wanted).sum(dtype=np.float64))
        missing = task.sight.nearest(windows, wanted).reshape(outputs.shape) - outputs
        given += missing.sum(1, dtype=np.float64)
        with_ones = np.concatenate([missing, np.ones_like(missing[..., :1])], 2)  # which sum the patches up
        summed += with_ones.swapaxes(1, 2) @ patches
    energy = float(np.square(seen - seen.mean(1, keepdims=True)).sum(dtype=np.float64))
    return _Look(lost / (energy or 1.0), given / count, summed[:, :-1] / count, summed[:, -1] / count)


def _fitted(task: Task, chain: Chain, rows: Rows, look: _Look, step: float) -> Chain:
    """The chain that gives best what a step of some length leads to, from the present one on."""
    weight, missing = reconstruct(chain), look.crossed
    if chain.bias is not None:
        missing = missing - look.missing[:, :, None] * look.patch[:, None, :]
    draw = DRAW if _plenty(rows) else FEW_DRAW
    goals = rows.known.moved(weight, step * missing, draw, bias=chain.bias is not None, shrink=draw)
    method, ranks = METHODS[task.candidate.method or ""], task.candidate.ranks or ()
    found = fit(method, task.site.stage, ranks, goals, 1, start=chain)
    if chain.bias is None:
        return found
    changed = (weight - reconstruct(found)).reshape(missing.shape)
    shift = step * look.missing + np.einsum("god,gd->go", changed, look.patch)
    return replace(found, bias=chain.bias + shift.ravel())


def _windows(task: Task, outputs: Array) -> Array:
    """Outputs (groups, rows, out) as (groups, windows, rows of one, out)."""
    groups, _, out = outputs.shape
    return outputs.reshape(groups, -1, task.sight.size, out)
