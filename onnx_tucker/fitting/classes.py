"""Outputs that are scores: the bias by which each class is named as often as by the original.

Least squares draws what it cannot predict towards the mean, and with it the decisions towards the classes that lead
there. The bias by which each class, or each event of its own, has in the mean the probability that the original gives
it, takes that back: it is the one of least Kullback-Leibler divergence (the likelihood equations of the multinomial and
of the binary logit; as a correction of a classifier: Alexandari, Kundaje and Shrikumar, "Maximum Likelihood with
Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation", ICML 2020).
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import scipy

from onnx_tucker.factor import reconstruct
from onnx_tucker.factor.ridge import agreement
from onnx_tucker.fitting.rows import Rows
from onnx_tucker.graph.behind import Scores
from onnx_tucker.types import Array, Chain

logger = logging.getLogger(__name__)

MOST = 4_000_000
"""Scores that are taken at most: of the 6,625 characters of a text recogniser, those of 600 positions."""
STEPS = 30
"""Steps of L-BFGS at most; a few tens suffice, but for classes that hardly ever occur."""
COST = 0.05
"""By what share the squared error of outputs may rise that are perhaps no scores: nothing behind them says so."""


def corrected(chain: Chain, rows: Rows, scores: Scores) -> Chain:
    """The chain with a bias that gives each class its probability in the mean, as far as both halves of the rows agree.

    Args:
        chain: of the node that gives the scores; its bias is all that the node adds.
        rows: of the node, as single positions.
        scores: what the outputs tell.
    """
    assert chain.bias is not None
    made = np.concatenate([outputs for _, _, outputs in rows.outputs(reconstruct(chain))], axis=1)
    given, wanted = _by_row(made) + chain.bias, _by_row(rows.wanted)
    if not np.isfinite(given).all():
        return chain
    halves = [rows.half == half for half in (0, 1)]
    one, other, both = (_bias(given[part], wanted[part], scores) for part in (*halves, slice(None)))
    bias = agreement(one, other) * both
    if scores == "perhaps":
        bias *= _affordable(given - wanted, bias)
    logger.info("a bias of up to %.3g gives each class the probability that it had", np.abs(bias).max())
    return replace(chain, bias=chain.bias + bias)


def _by_row(scores: Array) -> Array:
    """Scores (groups, rows, out) as (rows, classes)."""
    return np.asarray(scores.swapaxes(0, 1).reshape(scores.shape[1], -1), np.float64)


def _bias(given: Array, wanted: Array, scores: Scores) -> Array:
    """What is to be added to scores (rows, classes), so that the mean probabilities are those of the wanted scores."""
    start = np.zeros(given.shape[1])
    if not len(given):
        return start
    _, wanted_mean = _normalised(wanted, scores)

    def loss(bias: Array) -> tuple[float, Array]:
        whole, mean = _normalised(given + bias, scores)
        return whole - float(bias @ wanted_mean), mean - wanted_mean

    options = {"maxiter": STEPS}
    return np.asarray(scipy.optimize.minimize(loss, start, method="L-BFGS-B", jac=True, options=options).x)


def _normalised(given: Array, scores: Scores) -> tuple[float, Array]:
    """The mean logarithm of what makes probabilities of scores (rows, classes), and their means: its gradient."""
    if scores == "events":
        return float(np.logaddexp(0, given).sum(1).mean()), np.asarray(scipy.special.expit(given).mean(0))
    most = given.max(axis=1)
    powers = np.exp(given - most[:, None])
    sums = powers.sum(axis=1)
    return float((most + np.log(sums)).mean()), (1 / sums) @ powers / len(given)


def _affordable(missed: Array, bias: Array) -> float:
    """The part of a bias that costs no more than is allowed, by what scores (rows, classes) miss without it."""
    squares, across = len(missed) * float(bias @ bias), float(bias @ missed.sum(0))
    if not squares:
        return 0.0
    most = COST * float(np.square(missed).sum())
    return float(np.clip((math.sqrt(across**2 + squares * most) - across) / squares, 0.0, 1.0))
