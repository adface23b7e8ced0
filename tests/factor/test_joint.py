"""Linear layers fitted together."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from onnx_tucker.factor import joint
from onnx_tucker.factor.joint import Layer
from onnx_tucker.factor.sight import GRID, Affine, Curve, Sight
from onnx_tucker.types import Array, Chain, Stage, Window
from tests.helpers import relative

RNG = np.random.default_rng(0)
SIGHTS = {
    "all": None,
    "rectifier": Sight(low=0.0),
    "curve": Sight(curve=Curve(np.tanh(GRID))),
    "normalised": Sight(low=0.0, affine=Affine(RNG.standard_normal(6), RNG.standard_normal(6))),
}


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape)


def chain(out: int, rank: int, inp: int, bias: bool = True) -> Chain:
    stages = (Stage(rank, inp, Window()), Stage(out, rank, Window()))
    return Chain(stages, (noise(rank, inp), noise(out, rank)), noise(out) if bias else None)


@pytest.mark.parametrize("name", SIGHTS)
@pytest.mark.parametrize(("free", "bias"), [(True, True), (True, False), (False, True)])
def test_derivatives(name: str, free: bool, bias: bool) -> None:
    layers = [Layer(chain(6, 2, 8), SIGHTS[name], True), Layer(chain(5, 2, 6, bias), Sight(low=0.0), free)]
    layers.append(Layer(chain(3, 1, 5), None, True))
    x = noise(40, 8)
    loss = joint._Loss(layers, x, noise(40, 3))
    assert loss.start.size == sum(part.size for one in layers for part in one.parts)
    expected = approx_fprime(loss.start, lambda values: loss(values)[0], 1e-7)
    assert relative(expected, loss(loss.start)[1]) < 1e-4
    again = loss.layers(loss.start)
    assert np.allclose(joint.outputs(again, x), joint.outputs(layers, x))


def test_better_values_are_found_if_others_say_so_too() -> None:
    layers = [Layer(chain(6, 2, 8), Sight(low=0.0), True), Layer(chain(3, 2, 6), None, True)]
    x = noise(400, 8)
    near = [one.of([part + 0.1 * noise(*part.shape) for part in one.parts]) for one in layers]
    wanted = joint.outputs(layers, x)
    found = joint.refitted(near, x[:200], wanted[:200])
    before, after = (relative(wanted[200:], joint.outputs(one, x[200:])) for one in (near, found))
    assert after < 0.2 * before
    assert joint.refitted(near, x[:60], wanted[:60]) == near  # too few
    unrelated = joint.refitted(near, x[:80], noise(80, 3))
    assert joint.outputs(unrelated, x).shape == wanted.shape


def test_large_layers_take_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Layer(chain(6, 2, 8), Sight(low=0.0), True), Layer(chain(3, 2, 6), None, True)]
    monkeypatch.setattr(joint, "WORK", 1.0)
    assert joint.refitted(layers, noise(100, 8), noise(100, 3)) == layers


def test_rows_kept_apart_are_of_all_kinds_where_those_take_turns() -> None:
    x = np.tile(np.eye(joint.APART), (40, 1))
    kept, _ = joint._Loss([Layer(chain(3, 2, joint.APART), None, True)], x, noise(len(x), 3))._check
    assert len(kept) == 40
    assert kept.sum(0).min() > 0
