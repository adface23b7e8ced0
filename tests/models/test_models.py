"""The project's own models: the clips, the builders, and the trained network."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.helpers import ROOT, STROKES, run, session

sys.path.insert(0, str(ROOT / "models"))

import builders
import clips
import strokes


def test_a_clip_is_a_function_of_its_seed_and_index() -> None:
    first, label = clips.clip(clips.TEST, 3)
    again, same = clips.clip(clips.TEST, 3)
    assert first.shape == (4, clips.FRAMES, clips.HEIGHT, clips.WIDTH)
    assert first.dtype == np.float32
    assert -1 <= first.min() < first.max() <= 1
    assert np.array_equal(first, again)
    assert label == same
    assert not np.array_equal(first, clips.clip(clips.TEST, 4)[0])
    assert not np.array_equal(first, clips.clip(clips.TRAIN, 3)[0])


def test_both_strokes_are_drawn() -> None:
    pixels, labels = clips.clips(clips.TEST, 12, start=5)
    assert pixels.shape[0] == 12
    assert set(labels) == {0, 1}
    assert np.array_equal(pixels[2], clips.clip(clips.TEST, 7)[0])


@pytest.mark.parametrize("build", builders.BUILDERS.values(), ids=builders.BUILDERS)
def test_builders_make_valid_models(build: Callable[[], onnx.ModelProto]) -> None:
    made = build()
    onnx.checker.check_model(made, full_check=True)
    assert made.SerializeToString() == build().SerializeToString()
    shape = session(made).get_inputs()[0].shape
    [y] = run(made, x=np.zeros([1, *shape[1:]], np.float32))
    assert np.isfinite(y).all()


def test_the_unet_has_transposed_convolutions() -> None:
    assert "ConvTranspose" in {node.op_type for node in builders.unet3d().graph.node}


def test_the_trained_network_is_the_thesis_network() -> None:
    made = onnx.load(STROKES)
    onnx.checker.check_model(made, full_check=True)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    assert made == strokes.build(weights)
    assert {n: weights[f"{n}.weight"].shape for n in strokes.SHAPES} == strokes.SHAPES
    assert 1.7e6 < STROKES.stat().st_size < 1.9e6


@pytest.mark.slow
def test_the_trained_network_knows_its_task() -> None:
    pixels, labels = clips.clips(clips.TEST, 40)
    [logits] = run(STROKES.read_bytes(), clip=pixels)
    # 40 clips of a network that is right on 97.6 % of them: .85 is more than five standard errors below.
    assert 0.85 <= (logits.argmax(axis=1) == labels).mean() <= 1
