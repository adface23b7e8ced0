from __future__ import annotations

import numpy as np

from onnx_tucker.graph import layer
from onnx_tucker.graph.nodes import Names
from onnx_tucker.graph.segment import probe
from tests.helpers import candidate, look, relative, run, session, stored, two_layers

MADE = two_layers()
CONTEXT, _FOUND = look(MADE)
FOUND = {f.label: f for f in _FOUND}


def test_noise_layers_run_and_equal_layers_have_equal_bytes() -> None:
    planned = candidate(FOUND["conv"], "tucker2", (3, 3))
    first = layer.noise_original(MADE, FOUND["conv"], CONTEXT)
    chain = layer.noise_chain(MADE, FOUND["conv"], CONTEXT, planned)
    x = layer.noise_input((1, 24, 16, 16), np.dtype(np.float32))
    assert [run(m, **x)[0].shape for m in (first, chain)] == [(1, 32, 16, 16)] * 2
    other = two_layers(seed=5)
    other.graph.node[0].name = "another"
    context, [found, _] = look(other)
    assert layer.noise_original(other, found, context) == first
    assert layer.noise_chain(other, found, context, planned) == chain


def test_real_layers_compute_what_the_model_computes() -> None:
    found = FOUND["fc"]
    x = np.random.default_rng(0).standard_normal((2, 24, 16, 16)).astype(np.float32)
    [probed] = session(probe(MADE, ["f"])).run(None, {"x": x})
    planned = candidate(found, "svd", (32,))
    chain = layer.real_chain(MADE, found, CONTEXT, planned, stored(found, planned, Names(MADE)))
    assert relative(run(MADE, x=x)[0], run(chain, x=probed)[0]) < 1e-5


def test_building_layers_changes_nothing() -> None:
    layer.noise_original(MADE, FOUND["conv"], CONTEXT)
    planned = candidate(FOUND["conv"], "tucker2", (3, 3))
    layer.real_chain(MADE, FOUND["conv"], CONTEXT, planned, stored(FOUND["conv"], planned, Names(MADE)))
    probe(MADE, ["f"])
    assert two_layers() == MADE
