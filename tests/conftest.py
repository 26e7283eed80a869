"""Settings of all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _plans_are_not_verified() -> Iterator[None]:
    """Plan without running the step, which takes longer than most tests; ``test_verified_plan`` tests that."""
    from remat_planner.planner import verified_plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified_plan, "BY_DEFAULT", False)
        yield
