"""Settings of all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.sampling import sampled

# Before anything imports torch: the workers share the cores, and their threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a file in one process, and those of a model of the zoo: they share what they import and capture."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            test, _, parameters = nodeid.partition("[")
            return parameters if parameters and "zoo" in test else test.partition("::")[0]

    return Scheduling(config, log)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Import the planner, and have the garbage collector pass over it and PyTorch.

    Each capture looks through the collector's objects for functions of the user's, and some tests collect all garbage. Most
    objects are these libraries', which no test looks for.
    """
    if isinstance(collector, pytest.Session):
        import remat_planner.planner  # noqa: F401

        gc.collect()
        gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run a few of the cases of each slow test, unless it is asked for by name."""
    if not any("::" in argument for argument in config.args):
        run, left_out = sampled(items)
        config.hook.pytest_deselected(items=left_out)
        items[:] = run


@pytest.fixture(scope="session", autouse=True)
def _plans_are_not_verified() -> Iterator[None]:
    """Plan without running the step, which takes longer than most tests; ``test_verified_plan`` tests that."""
    from remat_planner.planner import verified_plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified_plan, "BY_DEFAULT", False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _operators_are_timed_briefly() -> Iterator[None]:
    """Time each operator as seldom as possible: few tests ask for more than the order of the times."""
    from remat_planner.tracer.costs import rounds

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "ENOUGH", 0.0)
        yield
