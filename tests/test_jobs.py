"""Layers factorised at the same time, on threads and on a cluster."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from joblib import parallel_config

from onnx_tucker import compress
from tests.helpers import model
from tests.search.test_allocate import uneven


def stack() -> onnx.ModelProto:
    """Six matrices in a row."""
    rng = np.random.default_rng(0)
    nodes = [onnx.helper.make_node("Gemm", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"layer{i}") for i in range(6)]
    tensors = {f"w{i}": rng.standard_normal((32, 32)).astype(np.float32) for i in range(6)}
    return model(nodes, tensors, {"x0": ["n", 32]}, {"x6": 2})


def test_jobs_change_nothing() -> None:
    made, x = uneven()
    for options in ({"ranks": 8}, {"ranks": "auto", "budget": "flops:0.5", "data": {"x": x}}):
        one, four = (compress(made, benchmark=False, jobs=jobs, **options).model for jobs in (1, 4))
        assert one == four


@pytest.mark.filterwarnings("ignore")  # those of the cluster's own packages
def test_a_cluster_factorises() -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster),
        parallel_config(backend="dask"),
    ):
        there = compress(stack(), ranks=8, benchmark=False).model
        tasks = cluster.scheduler.transition_counter
    assert tasks > 0
    assert there == compress(stack(), ranks=8, benchmark=False).model
