"""Settings of all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

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


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """Lets files be written at leisure: no test survives a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def generators() -> list[np.random.Generator]:
    """Those of all test modules, as tests use what others have."""
    modules = [module for name, module in sys.modules.items() if name.startswith("tests.")]
    return [module.RNG for module in modules if isinstance(getattr(module, "RNG", None), np.random.Generator)]


@pytest.fixture(autouse=True)
def same_numbers(generators: list[np.random.Generator]) -> None:
    """Lets each test draw the same numbers from the RNG of its module, whichever tests its worker ran before."""
    for generator in generators:
        generator.bit_generator.state = np.random.default_rng(0).bit_generator.state
