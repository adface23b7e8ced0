from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnx_tucker.factor import METHODS, reconstruct
from onnx_tucker.factor.fit import Goal, _principal, fit
from onnx_tucker.factor.metric import Dense, Sampled
from onnx_tucker.types import Array, Chain, Ranks, Stage, Window

CASES: list[tuple[str, tuple[int, ...], Ranks]] = [
    ("svd", (7, 6), (3,)),
    ("svd", (7, 6, 1, 1), (3,)),
    ("tucker1_in", (7, 6, 3, 2), (3,)),
    ("tucker1_out", (7, 6, 3, 2), (3,)),
    ("tucker2", (7, 6, 3, 2), (3, 4)),
    ("tucker2", (7, 6), (3, 4)),
    ("separable", (7, 6, 3, 2), (5,)),
    ("separable", (7, 6, 3, 2, 2), (5,)),
    ("tucker_kernel", (7, 6, 3, 2), (3, 2)),
    ("cp", (7, 6, 3), (5,)),
]
each = pytest.mark.parametrize(("name", "shape", "ranks"), CASES, ids=str)


def stage_of(*shape: int, groups: int = 1) -> Stage:
    axes = len(shape) - 2
    return Stage(*shape[:2], Window(shape[2:], (1,) * axes, (1,) * axes, (0,) * 2 * axes), groups)


def goal_of(weight: Array, seed: int = 0, rank: int | None = None) -> Goal:
    """A goal with inputs of very different sizes that depend on each other."""
    rng = np.random.default_rng(seed)
    width = weight[0].size
    mixed = rng.standard_normal((rank or 2 * width, width)) @ np.diag(np.logspace(0, -2, width))
    return Goal(weight.reshape(*weight.shape[:2], -1), Dense(mixed.T @ mixed + 1e-12 * np.eye(width)))


def loss(goal: Goal, chain: Chain) -> float:
    return goal.loss(reconstruct(chain).reshape(goal.target.shape))


@each
def test_the_terms_of_a_method_are_its_stages(name: str, shape: tuple[int, ...], ranks: Ranks) -> None:
    """The product of the terms is the weight that the chain amounts to."""
    method, stage = METHODS[name], stage_of(*shape)
    chain = method.chain(np.random.default_rng(0).standard_normal(shape), stage, ranks)
    volume, first = stage.window.volume, (stage.window.kernel or (1,))[0]
    sizes = {"o": shape[0], "i": shape[1], "k": volume, "t": first, "l": volume // first}
    sizes |= dict(zip(method.letters, ranks, strict=True))
    factors = [f.reshape([sizes[c] for c in term]) for f, term in zip(chain.factors, method.terms, strict=True)]
    whole = "oitl" if "t" in "".join(method.terms) else "oik"
    product = np.einsum(f"{','.join(method.terms)}->{whole}", *factors)
    assert np.allclose(product.reshape(shape), reconstruct(chain))


@each
def test_outputs_are_closer_than_those_of_the_decomposed_weight(
    name: str, shape: tuple[int, ...], ranks: Ranks
) -> None:
    method, stage = METHODS[name], stage_of(*shape)
    for seed in range(3):
        weight = np.random.default_rng(seed).standard_normal(shape)
        goal = goal_of(weight, seed)
        assert loss(goal, fit(method, stage, ranks, [goal])) < 0.9 * loss(goal, method.chain(weight, stage, ranks))


def influence_of(width: int, seed: int = 0) -> Array:
    """G of outputs that depend on each other and count very differently."""
    mixed = np.random.default_rng(seed).standard_normal((2 * width, width)) @ np.diag(np.logspace(0, -2, width))
    return np.asarray(mixed.T @ mixed + 1e-3 * np.eye(width))


@each
def test_errors_that_count_are_smaller_where_it_is_known_how_much(
    name: str, shape: tuple[int, ...], ranks: Ranks
) -> None:
    method, stage = METHODS[name], stage_of(*shape)
    for seed in range(3):
        weight = np.random.default_rng(seed).standard_normal(shape)
        alike = goal_of(weight, seed)
        goal = replace(alike, influence=influence_of(shape[0], seed))
        known, unknown = (fit(method, stage, ranks, [one]) for one in (goal, alike))
        assert loss(goal, known) < (1.0 if name == "tucker1_in" else 0.9) * loss(goal, unknown) + 1e-12


def test_the_loss_is_of_outputs_as_they_count() -> None:
    weight, other = np.random.default_rng(0).standard_normal((2, 7, 6, 3))
    influence, rows = influence_of(7), np.random.default_rng(1).standard_normal((50, 18))
    goal = Goal(weight, Dense(rows.T @ rows / 50), influence)
    missed = rows @ (weight - other).reshape(7, -1).T
    assert goal.loss(other) == pytest.approx(np.einsum("no,op,np->", missed, influence, missed) / 50)


def test_at_full_rank_the_weight_is_met_however_outputs_count() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 6))
    goal = replace(goal_of(weight), influence=influence_of(7))
    full = fit(METHODS["svd"], stage_of(7, 6), (6,), [goal])
    assert np.allclose(reconstruct(full), weight, atol=1e-6)


@pytest.mark.parametrize(("name", "shape", "ranks"), [case for case in CASES if case[0] != "cp"], ids=str)
def test_a_weight_that_has_the_ranks_is_found(name: str, shape: tuple[int, ...], ranks: Ranks) -> None:
    """Not of "cp", whose alternating least squares need not find the products."""
    method, stage = METHODS[name], stage_of(*shape)
    weight = reconstruct(method.chain(np.random.default_rng(0).standard_normal(shape), stage, ranks))
    goal = goal_of(weight)
    zero = goal.loss(np.zeros_like(goal.target))
    assert loss(goal, fit(method, stage, ranks, [goal])) < 1e-6 * zero


@pytest.mark.parametrize(("name", "shape"), [("svd", (7, 6)), ("tucker1_out", (7, 6, 3, 2))])
def test_methods_with_one_basis_of_the_output_reach_the_optimum(name: str, shape: tuple[int, ...]) -> None:
    """What reduced-rank regression loses is the smallest eigenvalues of the outputs' second moment."""
    goal = goal_of(np.random.default_rng(0).standard_normal(shape))
    matrix = goal.target.reshape(len(goal.target), -1)
    lost = np.linalg.eigvalsh(goal.metric.times(matrix) @ matrix.T)[:-3].sum()
    assert loss(goal, fit(METHODS[name], stage_of(*shape), (3,), [goal])) == pytest.approx(lost)


@pytest.mark.parametrize(("name", "shape", "ranks"), [c for c in CASES if not METHODS[c[0]].closed], ids=str)
def test_two_steps_give_nearly_all_that_steps_give_where_channels_depend_on_each_other(
    name: str, shape: tuple[int, ...], ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a preconditioner they leave half of it or more."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape).reshape(*shape[:2], -1)
    inputs = rng.standard_normal((2 * weight[0].size, *weight.shape[1:]))
    mixed = np.einsum("nik,ji->njk", inputs, rng.standard_normal((6, 6)) * np.logspace(0, -2, 6))
    rows = mixed.reshape(len(mixed), -1)
    goal = Goal(weight, Dense(rows.T @ rows))

    def reached(steps: int, rounds: int) -> float:
        monkeypatch.setattr("onnx_tucker.factor.fit.STEPS", steps)
        monkeypatch.setattr("onnx_tucker.factor.fit.LEAST_STEPS", steps)
        return loss(goal, fit(METHODS[name], stage_of(*shape), ranks, [goal], rounds))

    assert reached(2, 1) - reached(200, 1) < 0.1 * (reached(2, 0) - reached(200, 1))


@each
def test_inputs_that_never_vary_are_no_trouble(name: str, shape: tuple[int, ...], ranks: Ranks) -> None:
    weight = np.random.default_rng(0).standard_normal(shape)
    goal = goal_of(weight, rank=2)
    chain = fit(METHODS[name], stage_of(*shape), ranks, [goal])
    assert all(np.isfinite(factor).all() for factor in chain.factors)
    assert loss(goal, chain) <= loss(goal, METHODS[name].chain(weight, stage_of(*shape), ranks))


@pytest.mark.parametrize(("name", "shape", "ranks"), [case for case in CASES if case[0] != "cp"], ids=str)
def test_few_rows_give_what_their_moment_gives(name: str, shape: tuple[int, ...], ranks: Ranks) -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(shape)
    width = weight[0].size
    sampled = Sampled(rng.standard_normal((3, width)) @ np.diag(np.logspace(0, -1, width)), 0.01, 0.9, central=True)
    dense = Dense(sampled.times(np.eye(width)))
    target = weight.reshape(*shape[:2], -1)
    chains = [fit(METHODS[name], stage_of(*shape), ranks, [Goal(target, metric)]) for metric in (sampled, dense)]
    losses = [loss(Goal(target, dense), chain) for chain in chains]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    if name in ("tucker1_in", "tucker2", "separable"):  # what a first factor spans is all that counts
        first = chains[0].factors[0].reshape(len(chains[0].factors[0]), -1)
        assert np.allclose(first @ first.T, np.eye(len(first)))


def test_no_input_at_all_is_no_trouble() -> None:
    weight = np.random.default_rng(0).standard_normal((7, 6, 3))
    goal = replace(goal_of(weight), metric=Dense(np.zeros((18, 18))))
    chain = fit(METHODS["tucker2"], stage_of(7, 6, 3), (2, 2), [goal])
    assert all(np.isfinite(factor).all() for factor in chain.factors)


def test_every_group_has_its_own_goal() -> None:
    weights = np.random.default_rng(0).standard_normal((2, 7, 6, 3))
    goals = [goal_of(weight, seed) for seed, weight in enumerate(weights)]
    together = fit(METHODS["tucker2"], stage_of(7, 6, 3, groups=2), (3, 4), goals)
    alone = [fit(METHODS["tucker2"], stage_of(7, 6, 3), (3, 4), [goal]) for goal in goals]
    for both, *parts in zip(together.factors, *(chain.factors for chain in alone), strict=True):
        assert np.array_equal(both, np.concatenate(parts))


@pytest.mark.parametrize(("out", "inner", "rank"), [(40, 6, 3), (40, 6, 6), (40, 6, 9), (6, 40, 3), (8, 8, 5)])
def test_the_span_of_the_smaller_side_is_enough(out: int, inner: int, rank: int) -> None:
    rng = np.random.default_rng(0)
    left, root = rng.standard_normal((out, inner)), rng.standard_normal((inner, inner))
    right = root @ root.T @ left.T
    vectors, expected = _principal(left, right, rank), np.linalg.eigh(left @ right)[1][:, ::-1][:, :rank]
    assert np.allclose(vectors.T @ vectors, np.eye(rank))
    within = min(rank, inner)  # beyond that all directions are as good
    kept = vectors[:, :within] @ vectors[:, :within].T
    assert np.allclose(kept, expected[:, :within] @ expected[:, :within].T, atol=1e-8)
