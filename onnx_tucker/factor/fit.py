"""The factors of a method that do least harm to a layer's outputs, rather than to its weight.

With C the second moment of the layer's input patches p, and T the weight that predicts the wanted outputs best, a
chain of weight W misses them by

    E |y - W p|^2 = const + tr (W - T) C (W - T)^T,

which is minimised over the factors of W, one at a time. Where errors of outputs count by a matrix G, it is that of
G^(1/2) W and G^(1/2) T. The last factor has a closed form; with a basis of the output
behind it, the two together are reduced-rank regression (Izenman, Journal of Multivariate Analysis 5, 1975). The others
take a few steps of conjugate gradients each, preconditioned by a Kronecker product, as if the axes of a factor had
nothing to do with one another (Van Loan and Pitsianis, "Approximation with Kronecker Products", 1993). It starts from
the decomposition of the weight with whitened input channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy

from onnx_tucker.factor.axes import Axes, but, derivative, product
from onnx_tucker.factor.method import Method
from onnx_tucker.factor.metric import Metric, Product, Root, damped, roots
from onnx_tucker.types import Array, Chain, Ranks, Stage

ROUNDS = 8
"""How often every factor is refitted at most, unless less is asked for."""
STEPS, LEAST_STEPS = 6, 3
"""Steps of conjugate gradients for one factor, at most and at least; without the preconditioner it took 20."""
WORK = 1e11
"""Multiplications from which on there are fewer of them."""
ENOUGH = 1e-3
"""Rounds end when one lowers the loss by less than this share."""


@dataclass(frozen=True, eq=False)
class Goal:
    """What the weight of one group has to do: its quadratic loss.

    Attributes:
        target: the weight without a limit on its rank, (out, in, volume).
        metric: C.
        influence: G, how much errors of the outputs count, (out, out); None for all alike and each by itself.
    """

    target: Array
    metric: Metric
    influence: Array | None = None

    @property
    def felt(self) -> Goal:
        """The same with outputs all of whose errors count alike."""
        return self if self.influence is None else self._felt

    @cached_property
    def _felt(self) -> Goal:  # were it the goal itself, that would hold itself, and with it all rows
        return Goal(self.feel(self.target), self.metric)

    @cached_property
    def _roots(self) -> tuple[Root, Root]:
        assert self.influence is not None
        return roots(self.influence)

    def feel(self, weight: Array) -> Array:
        """The root of the influence times a weight, along its first axis, the outputs: then all errors count alike."""
        return weight if self.influence is None else self._roots[0].times(weight, 0)

    def unfelt(self, factor: Array) -> Array:
        """What undoes `feel` for a fitted factor: the inverse root of the influence times it, along its first axis."""
        return factor if self.influence is None else self._roots[1].times(factor, 0)

    @cached_property
    def wanted(self) -> Array:
        """`target @ C`, (out, in * volume)."""
        return self.metric.times(self.target.reshape(len(self.target), -1))

    def principal(self, rank: int) -> Array:
        """The directions of the outputs, orthonormal, (out, rank), without which the target gives least."""
        found = self._directions  # of all ranks, as curves ask for many
        return found[:, :rank] if rank <= found.shape[1] else _principal(*self._products, rank)

    @cached_property
    def _directions(self) -> Array:
        return _principal(*self._products, min(self.wanted.shape))

    @property
    def _products(self) -> tuple[Array, Array]:
        return self.target.reshape(len(self.target), -1), self.wanted.T

    def loss(self, weight: Array) -> float:
        """How far a weight (out, in, volume) is from the target, in the mean square of the outputs."""
        missed = self.feel((weight - self.target).reshape(len(weight), -1))
        return float(np.einsum("od,od->", self.metric.times(missed), missed))


def fit(
    method: Method,
    stage: Stage,
    ranks: Ranks,
    goals: Sequence[Goal],
    rounds: int = ROUNDS,
) -> Chain:
    """The chain of `stage` at `ranks` whose outputs miss the goals of its groups least, up to a local optimum.

    Args:
        method: the decomposition.
        stage: the site as the only stage of a chain.
        ranks: one for each of the method's modes.
        goals: of each group.
        rounds: how often every factor is refitted at most.
    """
    by_group = [_fitted(_Factors(method, replace(stage, groups=1), ranks, goal.felt), rounds, goal) for goal in goals]
    return Chain(method.stages(stage, ranks), tuple(np.concatenate(parts) for parts in zip(*by_group, strict=True)))


def missed(goals: Sequence[Goal], weight: Array) -> float:
    """The squared relative error of the outputs of a weight (groups * out, ...)."""
    parts = np.split(weight, len(goals))
    lost = sum(goal.loss(part.reshape(goal.target.shape)) for goal, part in zip(goals, parts, strict=True))
    total = sum(goal.loss(np.zeros_like(goal.target)) for goal in goals)
    return lost / total if total > 0 else 0.0


def step_work(shape: tuple[int, ...]) -> int:
    """Multiplications of a step of conjugate gradients for a weight (out, in * volume)."""
    return shape[0] * shape[1] ** 2


def _fitted(factors: _Factors, rounds: int, goal: Goal) -> tuple[Array, ...]:
    """The factors for a goal from those of what is felt of it."""
    outputs = next(i for i, term in enumerate(factors.terms) if "o" in term)
    found = list(factors.shaped(_descended(factors, rounds)))
    found[outputs] = goal.unfelt(found[outputs])
    return tuple(found)


def _descended(factors: _Factors, rounds: int) -> list[Array]:
    if factors.method.closed:
        return factors.close([])
    found, before = factors.close(factors.start()), np.inf
    for _ in range(rounds):
        loss = factors.goal.loss(factors.weight(found))
        if before - loss <= ENOUGH * loss:
            break
        before = loss
        found = factors.close(factors.descend(found))
    return found


def _principal(left: Array, right: Array, rank: int) -> Array:
    """The eigenvectors of `left @ right`, which is symmetric, with the largest eigenvalues; in the span of `left`."""
    out, inner = left.shape
    if not rank <= inner < out:
        return np.asarray(np.linalg.eigh(left @ right)[1][:, ::-1][:, :rank])
    span, rest = np.linalg.qr(left)
    return np.asarray(span @ np.linalg.eigh(rest @ (right @ span))[1][:, ::-1][:, :rank])


class _Factors(Axes):
    """The factors of one group and what they are to do."""

    def __init__(self, method: Method, stage: Stage, ranks: Ranks, goal: Goal) -> None:
        super().__init__(method, stage, ranks)
        self.method, self.stage, self.ranks, self.goal = method, stage, ranks, goal
        self.merged = method.ends_in_basis

    @cached_property
    def _roots(self) -> tuple[Root, Root]:
        return self.goal.metric.roots(self.stage.inp)

    def start(self) -> list[Array]:
        """The decomposition of the weight by its values, its input channels whitened."""
        half, inverse = self._roots
        target = half.times(self.goal.target, 1)
        found = self.named(self.method.factors(target.reshape(self.stage.shape), self.ranks))
        found[0] = inverse.times(found[0], self.terms[0].index("i"))
        return found

    def close(self, found: Sequence[Array]) -> list[Array]:
        """Refits the last factor, and the one before it too where the last is a basis of the output."""
        kept = list(found[: len(self.terms) - 1 - self.merged])
        if len(kept) == 1:  # only what it spans counts
            kept = [np.linalg.qr(kept[0].reshape(len(kept[0]), -1).T)[0].T.reshape(kept[0].shape)]
        terms = self.terms[: len(kept)]
        basis = self.terms[-1][1:]
        head = self.terms[-2].replace(basis, "o") if self.merged else self.terms[-1]
        rest = head.replace("o", "")
        best, axes = self.goal.target.reshape(self.stage.out, -1), {c: self.sizes[c] for c in self.whole[1:]}
        if terms:
            shaped = self.goal.wanted.reshape(-1, *axes.values())
            crossed = product([*terms, self.whole], [*kept, shaped], f"{rest}o").reshape(-1, self.stage.out)
            best = self.goal.metric.solve(Product(terms, kept, rest, axes), crossed).T
        else:  # it multiplies the patches themselves
            crossed = self.goal.wanted.T
        if not self.merged:
            best = best.reshape(self.stage.out, *(self.sizes[c] for c in rest))
            return [*kept, np.einsum(f"o{rest}->{head}", best)]
        rank = self.sizes[basis]
        vectors = _principal(best, crossed, rank) if terms else self.goal.principal(rank)
        core = (vectors.T @ best).reshape(-1, *(self.sizes[c] for c in rest))
        return [*kept, np.einsum(f"{basis}{rest}->{self.terms[-2]}", core), vectors]

    def descend(self, found: Sequence[Array]) -> list[Array]:
        """Lowers the loss over each factor before those that `close` refits."""
        found = list(found)
        wanted, terms, used = self.goal.wanted, self.terms, len(found)
        if self.merged:  # the basis is orthonormal: the loss within its span is all that the others can change
            wanted = found[-1].T @ wanted
            terms, used = (*terms[:-2], terms[-2].replace(terms[-1][1:], "o")), len(found) - 1
        for i in range(len(found) - 1 - self.merged):
            found[i] = self._descended(i, found[:used], terms, wanted)
        return found

    def _descended(self, i: int, found: Sequence[Array], terms: Sequence[str], wanted: Array) -> Array:
        shape, sizes = found[i].shape, [len(wanted), *(self.sizes[c] for c in self.whole[1:])]
        right = derivative(terms, found, i, self.whole, wanted.reshape(sizes)).ravel()

        def normal(flat: Array) -> Array:
            factors = [flat.reshape(shape) if j == i else f for j, f in enumerate(found)]
            return self.goal.metric.pull(terms, factors, i, self.whole).ravel()

        size, steps = found[i].size, int(np.clip(WORK / step_work(wanted.shape), LEAST_STEPS, STEPS))
        operator, inverse = (
            scipy.sparse.linalg.LinearOperator((size, size), matvec=matvec, dtype=np.float64)
            for matvec in (normal, self._inverse(i, found, terms))
        )
        solved, _ = scipy.sparse.linalg.cg(operator, right, x0=found[i].ravel(), rtol=1e-8, maxiter=steps, M=inverse)
        return np.asarray(solved).reshape(shape)

    def _inverse(self, i: int, found: Sequence[Array], terms: Sequence[str]) -> Callable[[Array], Array]:
        """What would solve for a factor, up to scale, if its axes had nothing to do with one another.

        Of the input channels it undoes the second moment, of each rank what the other factors make of it.
        """
        half, inverse = self._roots
        shape, names, channels = found[i].shape, but(terms, i), terms[i].find("i")
        others = [
            half.times(f, name.index("i")) if "i" in name else f for name, f in zip(names, but(found, i), strict=True)
        ]
        undo = dict[int, Array]()
        for axis, c in enumerate(terms[i]):
            if c not in self.whole:
                again = [name.replace(c, c.upper()) for name in names]
                undo[axis] = np.linalg.inv(damped(product([*names, *again], [*others, *others], c + c.upper())))

        def undone(flat: Array) -> Array:
            change = flat.reshape(shape)
            for axis, matrix in undo.items():
                change = np.moveaxis(np.tensordot(matrix, change, (1, axis)), 0, axis)
            if channels >= 0:
                change = inverse.times(inverse.times(change, channels), channels)
            return change.ravel()

        return undone
