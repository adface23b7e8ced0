"""How many threads linear algebra takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import scipy.linalg  # noqa: F401  # it has a BLAS of its own, which has to be there to be told
from threadpoolctl import threadpool_limits

P = ParamSpec("P")
T = TypeVar("T")


def limited(work: Callable[P, T]) -> Callable[P, T]:
    """A function in which numpy and scipy take as many threads as its option `threads` says; 0 for what they would.

    Threads that wait for one another waste most of their time where others keep the cores busy, and sums are the same
    to the last bit only for as many of them.
    """

    @wraps(work)
    def run(*args: P.args, **options: P.kwargs) -> T:
        threads = options.get("threads")
        with threadpool_limits(threads if isinstance(threads, int) and threads > 0 else None, user_api="blas"):
            return work(*args, **options)

    return run
