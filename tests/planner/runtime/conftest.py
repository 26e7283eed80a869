"""Fixtures of the tests of planned calls."""

from __future__ import annotations

import math
from typing import Any

import pytest

from remat_planner.planner.runtime import audit


@pytest.fixture
def each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Audit at each step from the second on."""
    monkeypatch.setattr(audit, "SHARE_OF_TIME", math.inf)


@pytest.fixture
def audits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models audited, one for each audit."""
    seen: list[Any] = []
    original = audit.record_forward

    def recorded(joint: Any, *args: Any) -> Any:
        seen.append(joint.model)
        return original(joint, *args)

    monkeypatch.setattr(audit, "record_forward", recorded)
    return seen
