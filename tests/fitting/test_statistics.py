"""Statistics of a model's nodes that are kept for later runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnx_tucker import compress
from onnx_tucker.errors import DataError, UsageError
from tests.helpers import Array, model, relative, run

RNG = np.random.default_rng(0)


def noise(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def network() -> onnx.ModelProto:
    """A convolution of many positions, and a matrix that sees more values than there are samples."""
    nodes = [
        helper.make_node("Conv", ["x", "a", "p"], ["c"], "first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "b", "q"], ["y"], "second"),
    ]
    tensors = {"a": noise(16, 10, 3, 3), "p": noise(16), "b": noise(16 * 64, 12) / 32, "q": noise(12)}
    return model(nodes, tensors, {"x": ["n", 10, 8, 8]}, {"y": 2})


NETWORK, OTHER = network(), network()
X = noise(100, 3, 8, 8).repeat(4, axis=1)[:, :10] * np.float32(0.5) + noise(100, 10, 8, 8) / np.float32(4)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statistics") / "s.npz"
    compress(NETWORK, dry_run=True, benchmark=False, data={"x": X[10:]}, statistics_out=path)
    return path


def test_both_kinds_are_kept(kept: Path) -> None:
    with np.load(kept, allow_pickle=False) as content:
        assert list(content["nodes"]) == ["first", "second"]
        assert content["0/rows"] == 72 * 64  # of 90 samples, one in five is kept apart
        assert content["1/patches"].shape == (1, 72, 1024)


@pytest.mark.parametrize(("rows", "kind"), [(195, "patches"), (205, "squared"), (305, "squared")])
def test_rows_are_kept_where_they_are_few(rows: int, kind: str, tmp_path: Path) -> None:
    """Of 200 values each, less one in five that is kept apart."""
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "matmul")],
        {"w": RNG.random((200, 8), np.float32)},
        {"x": ["n", 200]},
        {"y": 2},
    )
    x = RNG.random((rows * 5 // 4, 200), np.float32)
    compress(made, dry_run=True, benchmark=False, data={"x": x}, statistics_out=tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as content:
        assert f"0/{kind}" in content


def test_nothing_is_kept_of_samples_that_say_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing that could be kept"):
        compress(NETWORK, dry_run=True, benchmark=False, data={"x": 0 * X}, statistics_out=tmp_path / "s.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("node", ["first", "second"])
def test_a_node_is_closer_with_statistics_than_without(kept: Path, node: str) -> None:
    options = {"ranks": "4", "benchmark": False, "include": node}
    exact = run(NETWORK, x=X[:10])[0]
    errors = [
        relative(exact, run(compress(NETWORK, **options, **more).model, x=X[:10])[0])
        for more in ({}, {"statistics": kept})
    ]
    assert errors[1] < 0.9 * errors[0]


def test_what_is_the_same_of_all_samples_is_left_to_the_bias(tmp_path: Path) -> None:
    made = model(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "gemm")],
        {"w": noise(16, 12), "b": noise(12)},
        {"x": ["n", 16]},
        {"y": 2},
    )
    x = noise(400, 3) @ noise(3, 16) + noise(16)
    compress(made, dry_run=True, benchmark=False, data={"x": x}, statistics_out=tmp_path / "s.npz")
    result = compress(made, ranks=3, benchmark=False, statistics=tmp_path / "s.npz").model
    assert relative(run(made, x=x)[0], run(result, x=x)[0]) < 0.05


def test_they_say_where_a_budget_goes(kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = compress(NETWORK, ranks="auto", budget="flops:0.5", benchmark=False, statistics=kept)
    flops = result.report.totals.flops
    assert flops.before is not None
    assert flops.after is not None
    assert flops.after <= 0.5 * flops.before
    assert "each node's statistics alone" in caplog.text


def test_those_of_another_model_are_refused(kept: Path) -> None:
    with pytest.raises(DataError, match="of another model"):
        compress(OTHER, benchmark=False, statistics=kept)


@pytest.mark.parametrize(
    "damage", ["missing", "cut short", "no zip", "one array", "other shapes", "not finite", "words"]
)
def test_damaged_files_are_refused(kept: Path, tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.npz"
    content = kept.read_bytes()
    if damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "no zip":
        path.write_bytes(b"no zip")
    elif damage == "one array":
        path = tmp_path / "s.npy"
        np.save(path, X)
    elif damage != "missing":
        change = {
            "other shapes": ("0/squared", lambda array: array[..., :-1]),
            "not finite": ("1/patches", lambda array: array * np.nan),
            "words": ("0/patch", lambda array: array.astype(str)),
        }
        changed, by = change[damage]
        with np.load(kept, allow_pickle=False) as arrays:
            np.savez(path, **{name: by(arrays[name]) if name == changed else arrays[name] for name in arrays})
    with pytest.raises(DataError, match=r"There is no file|cannot be read"):
        compress(NETWORK, ranks="4", benchmark=False, statistics=path)


def test_they_take_the_place_of_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes the place of --data"):
        compress(NETWORK, data={"x": X}, statistics=tmp_path / "s.npz")
    with pytest.raises(UsageError, match="needs --data"):
        compress(NETWORK, statistics_out=tmp_path / "s.npz")
