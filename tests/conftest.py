"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

# Before anything imports torch: the workers share the cores, and their threads would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _plans_are_not_verified() -> Iterator[None]:
    """Plan without running the step, which takes longer than most tests; ``test_verified_plan`` tests that."""
    from remat_planner.planner import verified_plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified_plan, "BY_DEFAULT", False)
        yield
