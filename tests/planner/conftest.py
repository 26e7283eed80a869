"""Fixtures of all tests of the planner."""

from tests.planner.command_line import call as call
from tests.planner.command_line import folder as folder
