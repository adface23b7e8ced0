from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnx_tucker.errors import UsageError
from onnx_tucker.runtime.noise import drawn
from tests.helpers import conv_model, model, session

CONV = conv_model(np.ones((2, 3, 3), np.float32))


def test_noise_is_seeded_and_of_the_inputs_types() -> None:
    made = model([helper.make_node("Gather", ["t", "i"], ["y"])], {"t": np.ones((5, 2), np.float32)}, {}, {"y": 2})
    made.graph.input.add().CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, ["n"]))
    first, again, other = (drawn(session(made), {"i": (6,)}, seed, 2) for seed in (0, 0, 1))
    assert first.fit.feeds[0]["i"].dtype == np.int64
    assert set(first.fit.feeds[0]["i"]) <= {0, 1}
    assert np.array_equal(first.fit.feeds[1]["i"], again.fit.feeds[1]["i"])
    noise = [drawn(session(CONV), {"x": (1, 3, 8)}, seed, 2) for seed in (0, 1)]
    assert not np.array_equal(noise[0].fit.feeds[0]["x"], noise[1].fit.feeds[0]["x"])
    assert not np.array_equal(noise[0].fit.feeds[0]["x"], noise[0].fit.feeds[1]["x"])
    assert other.fit.samples == 12


def test_what_cannot_be_made_up() -> None:
    with pytest.raises(UsageError, match="--input-shape"):
        drawn(session(CONV), {}, 0, 1)
    made = model([helper.make_node("Identity", ["s"], ["y"])], {}, {"s": [2]}, {"y": 1}, dtype=TensorProto.STRING)
    with pytest.raises(UsageError, match="cannot be made up; give --data"):
        drawn(session(made), {"s": (2,)}, 0, 1)


def test_noise_has_its_limits() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": [2**20, 2**20]}, {"y": 2})
    with pytest.raises(UsageError, match="smaller ones"):
        drawn(session(made), {"x": (2**20, 2**20)}, 0, 1)
    scalar = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": []}, {"y": 0})
    [feed] = drawn(session(scalar), {"x": ()}, 0, 1).fit.feeds
    session(scalar).run(None, dict(feed))
