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
from onnx_tucker.factor.moments import agreement
from onnx_tucker.graph.behind import Scores
from onnx_tucker.rows import Rows
from onnx_tucker.types import Array, Chain

logger = logging.getLogger(__name__)

MOST = 20_000_000
"""Scores that are held at the same time."""
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
    mean = np.asarray((scipy.special.expit if scores == "events" else _softmax)(wanted).mean(0))

    def loss(bias: Array) -> tuple[float, Array]:
        moved = given + bias
        if scores == "events":
            whole, found = np.logaddexp(0, moved).sum(1), scipy.special.expit(moved)
        else:
            whole, found = scipy.special.logsumexp(moved, axis=1), _softmax(moved)
        return float(whole.mean() - bias @ mean), found.mean(0) - mean

    return np.asarray(scipy.optimize.minimize(loss, start, method="L-BFGS-B", jac=True).x)


def _softmax(scores: Array) -> Array:
    return np.asarray(scipy.special.softmax(scores, axis=1))


def _affordable(missed: Array, bias: Array) -> float:
    """The part of a bias that costs no more than is allowed, by what scores (rows, classes) miss without it."""
    squares, across = len(missed) * float(bias @ bias), float(bias @ missed.sum(0))
    if not squares:
        return 0.0
    most = COST * float(np.square(missed).sum())
    return float(np.clip((math.sqrt(across**2 + squares * most) - across) / squares, 0.0, 1.0))
