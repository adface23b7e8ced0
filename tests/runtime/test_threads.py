from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onnx_tucker.runtime.threads import limited


def blas_threads(**options: object) -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize("options", [{}, {"threads": 0}])
def test_linear_algebra_takes_what_it_would(options: dict[str, int]) -> None:
    with threadpool_limits(2, user_api="blas"):
        assert limited(blas_threads)(**options) == {2}


def test_linear_algebra_takes_the_threads_that_are_asked_for_and_no_longer() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert limited(blas_threads)(threads=1) == {1}
        assert blas_threads() == {2}
