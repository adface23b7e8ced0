"""How many threads linear algebra takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from numbers import Integral
from pathlib import Path
from typing import ParamSpec, TypeVar

import scipy.linalg  # noqa: F401  # it has a BLAS of its own, which has to be there to be told
from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")


def limited(work: Callable[P, T]) -> Callable[P, T]:
    """A function in which numpy and scipy take as many threads as its option `threads` says; 0 for what they would.

    Threads that wait for one another waste most of their time where others keep the cores busy, and sums are the same
    to the last bit only for as many of them. Where scipy has a BLAS of its own beside numpy's, as in wheels, that takes
    one thread: others would wait on the cores that numpy's need, which made fits take twice as long.
    """

    @wraps(work)
    def run(*args: P.args, **options: P.kwargs) -> T:
        threads = options.get("threads")
        known = ThreadpoolController()
        paths = [one.filepath for one in known.lib_controllers]
        own = [path for path in paths if {"scipy", "scipy.libs"} & set(Path(path).parts[-3:-1])]
        limit = max(0, int(threads)) or None if isinstance(threads, Integral) else None
        with known.limit(limits=limit, user_api="blas"), known.select(filepath=own).limit(limits=1):
            return work(*args, **options)

    return run
