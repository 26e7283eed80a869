"""TODO."""

from remat_planner.planner.reports.explanation import explain
from remat_planner.planner.reports.json_document import plan_document, verification_document
from remat_planner.planner.reports.memory_table import Combinations, Row, combinations
from remat_planner.planner.reports.policy_comparison import compare
from remat_planner.planner.reports.regions import region_document, region_hint, region_line, region_report
from remat_planner.planner.reports.terminal import (
    explanation_report,
    one_line,
    pinned_report,
    plan_report,
    usage_hint,
    verification_report,
)

__all__ = [
    "Combinations",
    "Row",
    "combinations",
    "compare",
    "explain",
    "explanation_report",
    "one_line",
    "pinned_report",
    "plan_document",
    "plan_report",
    "region_document",
    "region_hint",
    "region_line",
    "region_report",
    "usage_hint",
    "verification_document",
    "verification_report",
]
