from __future__ import annotations

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from onnx_tucker.runtime.threads import limited


def blas_threads(**options: object) -> set[int]:
    """Of all but scipy's own, if it has one."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    others = [pool for pool in pools if "scipy.libs" not in pool["filepath"]]
    return {pool["num_threads"] for pool in others or pools}


def scipys_threads(**options: object) -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if "scipy.libs" in pool["filepath"]}


@pytest.mark.parametrize("options", [{}, {"threads": 0}])
def test_linear_algebra_takes_what_it_would(options: dict[str, int]) -> None:
    with threadpool_limits(2, user_api="blas"):
        assert limited(blas_threads)(**options) == {2}


def test_linear_algebra_takes_the_threads_that_are_asked_for_and_no_longer() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert limited(blas_threads)(threads=1) == {1}
        assert blas_threads() == {2}


def test_scipys_own_take_one() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = scipys_threads()
        assert limited(scipys_threads)(threads=2) <= {1}
        assert scipys_threads() == before
