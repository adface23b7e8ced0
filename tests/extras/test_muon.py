"""Steps of matrices."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
muon = pytest.importorskip("onnx_tucker.extras.muon")

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(8, 8), (3, 40), (40, 3), (64, 576)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_singular_values_become_about_the_same_and_vectors_stay(shape: tuple[int, int], size: float) -> None:
    left, _, right = np.linalg.svd(RNG.standard_normal(shape), full_matrices=False)
    values = size * np.geomspace(1, 1e-2, min(shape))
    made = muon.orthogonal(torch.from_numpy((left * values @ right).astype(np.float32))).numpy() / max(shape) ** 0.5
    kept = left.T @ made @ right.T
    assert np.diag(kept).min() > 0.6
    assert np.diag(kept).max() < 1.3
    assert np.abs(kept - np.diag(np.diag(kept))).max() < 1e-2


def test_what_is_zero_stays_zero() -> None:
    assert not muon.orthogonal(torch.zeros(3, 5)).any()


def test_what_hardly_matters_is_learnt_too() -> None:
    x = torch.from_numpy((RNG.standard_normal((200, 8)) * np.geomspace(1, 0.03, 8)).astype(np.float32))
    right = torch.from_numpy(RNG.standard_normal((8, 8)).astype(np.float32))
    errors = {}
    for name in ("muon", "sgd"):
        weight = torch.zeros(8, 8, requires_grad=True)
        rate = 0.1 if name == "muon" else 1.0
        taking = muon.Muon([{"params": [weight], "lr": rate}]) if name == "muon" else torch.optim.SGD([weight], rate)
        for _ in range(200):
            taking.zero_grad()
            (x @ (weight - right)).square().mean().backward()
            taking.step()
        errors[name] = float((weight.detach() - right).norm() / right.norm())
    assert errors["muon"] < 0.2 < 0.4 < errors["sgd"]


def test_weights_without_derivatives_stay() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    muon.Muon([{"params": [weight], "lr": 1.0}]).step()
    assert torch.equal(weight, torch.ones(2, 2))


def test_weights_decay_at_the_rate() -> None:
    weight = torch.ones(2, 2, requires_grad=True)
    weight.grad = torch.zeros(2, 2)
    muon.Muon([{"params": [weight], "lr": 0.5, "weight_decay": 0.2}]).step()
    assert torch.equal(weight, torch.full((2, 2), 0.9))
