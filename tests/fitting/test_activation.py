"""Chains fitted to what an activation sees, from end to end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from scipy.optimize import approx_fprime

from onnx_tucker import compress
from onnx_tucker.adjoints.influence import Influences
from onnx_tucker.factor import reconstruct
from onnx_tucker.factor.sight import Affine, Sight
from onnx_tucker.fitting import activation
from onnx_tucker.fitting.calibrate import decomposed
from onnx_tucker.fitting.rows import Rows
from onnx_tucker.graph import behind
from onnx_tucker.types import Candidate, Chain, Choice, Plan, Site, Stage, Window
from tests.helpers import Array, model, relative, run

RNG = np.random.default_rng(0)


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def behind_conv(weight: Array, size: int, *steps: tuple[str, dict[str, Any]], **attributes: Any) -> onnx.ModelProto:
    """A convolution that mostly gives what a rectifier takes for zero, and nodes behind it."""
    groups = attributes.get("group", 1)
    bias = noise(len(weight)) - np.float32(weight[0].size ** 0.5)
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["v0"], "conv", **attributes)]
    for i, (op, given) in enumerate(steps):
        nodes.append(helper.make_node(op, [f"v{i}"], [f"v{i + 1}"], f"{op}{i}", **given))
    axes = weight.ndim - 2
    shape = ["n", weight.shape[1] * groups, *[size] * axes]
    return model(nodes, {"w": weight, "b": bias}, {"x": shape}, {f"v{len(steps)}": axes + 2})


def normalised() -> onnx.ModelProto:
    """A convolution without a bias, and a normalisation before the rectifier."""
    made = behind_conv(noise(12, 10, 3, 3), 8, ("Relu", {}))
    tensors = {"s": noise(12), "t": noise(12) - 1, "m": noise(12), "v": np.square(noise(12)) + np.float32(0.1)}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in tensors.items())
    made.graph.node.insert(1, helper.make_node("BatchNormalization", ["v0", *tensors], ["n"], "norm"))
    made.graph.node[2].input[0] = "n"
    del made.graph.node[0].input[2:]
    return made


def plan(made: onnx.ModelProto, method: str, *ranks: int) -> Plan:
    shape = tuple(made.graph.initializer[0].dims)
    return Plan((Choice("conv", "Conv", shape, "factorized", "", method, "direct", ranks),))


RELU = ("Relu", dict[str, Any]())
POOL = ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]})
CASES = {
    "rectified": (behind_conv(noise(12, 10, 3, 3), 8, RELU), noise(80, 10, 8, 8), ("tucker2", 4, 4)),
    "pooled": (behind_conv(noise(12, 10, 3, 3), 9, RELU, POOL), noise(80, 10, 9, 9), ("tucker2", 4, 4)),
    "closed form": (behind_conv(noise(12, 10, 3, 3), 8, POOL, RELU), noise(80, 10, 8, 8), ("tucker1_out", 4)),
    "groups": (behind_conv(noise(12, 5, 3), 12, RELU, group=2), noise(120, 10, 12), ("tucker1_out", 3)),
    "swish": (behind_conv(noise(12, 10, 3, 3), 8, ("HardSwish", {})), noise(80, 10, 8, 8), ("tucker2", 4, 4)),
    "leaky": (behind_conv(noise(12, 10, 3), 12, ("LeakyRelu", {})), noise(80, 10, 12), ("tucker2", 4, 4)),
    "normalised": (normalised(), noise(80, 10, 8, 8), ("tucker2", 4, 4)),
    "few rows": (behind_conv(noise(12, 40, 3), 3, RELU), noise(80, 40, 3), ("tucker1_out", 4)),
}


def error(made: onnx.ModelProto, x: Array, **options: Any) -> float:
    """On samples that nothing is fitted to."""
    slim = compress(made, data={"x": x[16:]}, benchmark=False, **options).model
    return relative(run(made, x=x[:16])[0], run(slim, x=x[:16])[0])


@pytest.mark.parametrize("name", CASES)
def test_less_is_missed_of_what_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Influences, "of", lambda *_: None)  # which may bring them as close by itself
    made, x, chosen = CASES[name]
    with_sight = error(made, x, plan=plan(made, *chosen))
    monkeypatch.setattr(behind, "sight", lambda *_, **__: None)
    without = error(made, x, plan=plan(made, *chosen))
    assert with_sight < (without if name != "few rows" else without * 1.02)


def test_full_rank_stays_exact() -> None:
    made, x, _ = CASES["pooled"]
    assert error(made, x, ranks="full") < 1e-4


def test_windows_larger_than_the_output_are_no_obstacle() -> None:
    wide = ("MaxPool", {"kernel_shape": [9, 1], "strides": [9, 1], "ceil_mode": 0})
    made = behind_conv(noise(12, 10, 3, 3), 9, RELU, wide, pads=[1] * 4)
    assert np.isfinite(error(made, noise(40, 10, 9, 9), ranks="4"))


def test_an_addition_in_between_is_taken_into_account(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = noise(10, 10, 3, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1] * 4),
        helper.make_node("Add", ["c", "x"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["y"], "relu"),
    ]
    made = model(nodes, {"w": weight, "b": noise(10) - 9}, {"x": ["n", 10, 8, 8]}, {"y": 4})
    x = 3 * noise(80, 10, 8, 8)
    with_sight = error(made, x, plan=plan(made, "tucker2", 4, 4))
    monkeypatch.setattr(behind, "sight", lambda *_, **__: None)
    assert with_sight < error(made, x, plan=plan(made, "tucker2", 4, 4))


def test_what_is_seen_counts_as_much_as_it_does_for_the_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["g"], "first", transB=1),
        helper.make_node("Relu", ["g"], ["r"]),
        helper.make_node("Gemm", ["r", "c"], ["y"], "second", transB=1),
    ]
    choice = Choice("first", "Gemm", (24, 24), "factorized", "", "svd", "direct", (6,))
    kept = Choice("second", "Gemm", (6, 24), "kept", "as asked", None, None, None)
    chains = Plan((choice, kept), "influence on activations")

    def missed(made: onnx.ModelProto, x: Array) -> float:
        slim = compress(made, plan=chains, data={"x": x[:400]}, benchmark=False).model
        return relative(run(made, x=x[400:])[0], run(slim, x=x[400:])[0])

    known, alike = 0.0, 0.0
    for _ in range(5):  # of single draws one in ten is no closer
        use = noise(6, 24) * np.geomspace(1, 1e-2, 24).astype(np.float32)
        made = model(nodes, {"a": noise(24, 24), "b": noise(24), "c": use}, {"x": ["n", 24]}, {"y": 2})
        x = noise(800, 24)
        known += missed(made, x)
        with monkeypatch.context() as blind:
            blind.setattr(Influences, "of_seen", lambda *_: None)
            alike += missed(made, x)
    assert known < 0.97 * alike


STAGE = Stage(6, 8, Window(), 2)


def task(sight: Sight, influence: Array | None = None) -> tuple[activation.Task, Chain]:
    """Two groups of products with a matrix, and their chain from the weight alone, with a bias."""
    weight = noise(12, 8).astype(np.float64)
    site = Site("n", "Conv", STAGE, weight.dtype, lambda: weight, None, bias=True)
    candidate = Candidate("svd", (3,), (), 0.0)
    chain = decomposed(weight, STAGE, candidate)
    return activation.Task(site, candidate, sight, influence), Chain(chain.stages, chain.factors, noise(12) - 1.0)


def rows(fitted: activation.Task, count: int, size: int = 1) -> Rows:
    """What the original weight gives, less one."""
    parts = noise(count * size, 16).astype(np.float64)
    weight = fitted.site.read().reshape(2, 6, 8)
    wanted = np.stack([parts[:, 8 * group : 8 * group + 8] @ weight[group].T - 1 for group in (0, 1)])
    return Rows(STAGE, size, parts, wanted, 0.1 * noise(*wanted.shape), np.arange(count).repeat(size) % 2)


@pytest.mark.parametrize("sight", [Sight(low=0.0), Sight(low=0.0, window=(2,), affine=Affine(noise(12), noise(12)))])
@pytest.mark.parametrize("counts", [True, False])
def test_derivatives(sight: Sight, counts: bool) -> None:
    roots = noise(2, 6, 6).astype(np.float64)
    fitted, chain = task(sight, roots @ roots.swapaxes(1, 2) if counts else None)
    loss = activation._Loss(fitted, chain, rows(fitted, 60, sight.size))
    assert all(np.array_equal(a, b) for a, b in zip(chain.factors, loss.chain(loss.start).factors, strict=True))
    place = loss.start + 0.1 * noise(loss.start.size)
    expected = approx_fprime(place, lambda coordinates: loss(coordinates)[0], 1e-7)
    assert relative(expected, loss(place)[1]) < 1e-4


def test_weights_stay_near_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, chain = task(Sight(low=0.0))
    known = rows(fitted, 100)

    def moved(ridge: float) -> float:
        monkeypatch.setattr(activation, "RIDGE", ridge)
        return relative(reconstruct(chain), reconstruct(activation.refitted(fitted, chain, known)))

    usual = activation.RIDGE
    assert moved(0.0) > 1.1 * moved(usual) > 0
    assert moved(1e6) < 1e-3


def test_what_misses_nothing_stays() -> None:
    fitted, _ = task(Sight(low=0.0))
    full = fitted._replace(candidate=Candidate("svd", (6,), (), 0.0))
    whole = replace(decomposed(fitted.site.read(), STAGE, full.candidate), bias=np.full(12, -1.0))
    known = rows(fitted, 100)
    known.added[:] = 0
    assert relative(reconstruct(whole), reconstruct(activation.refitted(full, whole, known))) < 1e-4


@pytest.mark.parametrize("factor", [1e-2, 30.0])
def test_how_outputs_are_scaled_changes_nothing(factor: float) -> None:
    fitted, chain = task(Sight(low=0.0))
    known = rows(fitted, 100)
    first, last = chain.factors
    assert chain.bias is not None
    small = replace(chain, factors=(first, last / factor), bias=chain.bias / factor)
    given = replace(known, wanted=known.wanted / factor, added=known.added / np.float32(factor))
    scaled = fitted._replace(sight=Sight(low=0.0, affine=Affine(np.full(12, factor), np.zeros(12))))
    plain = reconstruct(activation.refitted(fitted, chain, known))
    assert relative(plain, factor * reconstruct(activation.refitted(scaled, small, given))) < 1e-2
