"""Settings of all tests."""

from __future__ import annotations

import os
import sys

# Workers that share a machine each keep to a core of their own: what they time would be of the others' making
# otherwise. Before numpy is imported, which counts the cores.
worker = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
if worker and hasattr(os, "sched_setaffinity"):  # Linux only
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker) % len(cores)]})

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("machine may be busy", deadline=None)
settings.load_profile("machine may be busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slow tests first: short ones fill the time of the worker that is done with those."""
    items.sort(key=lambda item: "slow" not in item.keywords)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Lets each test draw the same numbers from the RNG of its module, whichever tests its worker ran before."""
    for name, module in [*sys.modules.items()]:  # others too, as tests use what they have
        if name.startswith("tests.") and isinstance(rng := getattr(module, "RNG", None), np.random.Generator):
            rng.bit_generator.state = np.random.default_rng(0).bit_generator.state
