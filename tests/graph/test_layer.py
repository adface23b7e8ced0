from __future__ import annotations

import numpy as np

from onnx_tucker.factor import METHODS
from onnx_tucker.graph import layer
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.splice import build
from onnx_tucker.types import Candidate
from tests.helpers import look, relative, run, session, two_layers

MADE = two_layers()
CONTEXT, _FOUND = look(MADE)
FOUND = {f.place.label: f for f in _FOUND}


def test_noise_layers_run_and_equal_layers_have_equal_bytes() -> None:
    site = FOUND["conv"].site
    candidate = Candidate("tucker2", (3, 3), METHODS["tucker2"].stages(site.stage, (3, 3)), 0.0)
    first = layer.noise_original(MADE, FOUND["conv"], CONTEXT)
    chain = layer.noise_chain(MADE, FOUND["conv"], CONTEXT, candidate)
    x = layer.noise_input(FOUND["conv"], CONTEXT)
    assert [run(m, **x)[0].shape for m in (first, chain)] == [(1, 32, 16, 16)] * 2
    other = two_layers(seed=5)
    other.graph.node[0].name = "another"
    context, [found, _] = look(other)
    assert layer.noise_original(other, found, context) == first
    assert layer.noise_chain(other, found, context, candidate) == chain


def test_real_layers_compute_what_the_model_computes() -> None:
    found = FOUND["fc"]
    x = np.random.default_rng(0).standard_normal((2, 24, 16, 16)).astype(np.float32)
    [probed] = session(layer.probe(MADE, ["f"])).run(None, {"x": x})
    [alone] = run(layer.real_original(MADE, found, CONTEXT), x=probed)
    assert np.allclose(alone, run(MADE, x=x)[0], atol=1e-6)
    chain = METHODS["svd"].chain(found.site.read(), found.site.stage, (32,))
    piece = build(found, "svd", chain, CONTEXT, Names(MADE))
    assert relative(alone, run(layer.real_chain(MADE, found, CONTEXT, piece), x=probed)[0]) < 1e-5


def test_building_layers_changes_nothing() -> None:
    layer.noise_original(MADE, FOUND["conv"], CONTEXT)
    layer.real_original(MADE, FOUND["conv"], CONTEXT)
    layer.probe(MADE, ["f"])
    assert two_layers() == MADE
