"""Fixtures of all tests of the planner."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.planner.command_line import call as call
from tests.planner.command_line import folder as folder


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings of the logger "remat_planner", as they come."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("remat_planner")
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)
