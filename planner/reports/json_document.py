"""A summary as one JSON document: what the terminal report says, with exact numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from remat_planner.planner.reports.region_summary import RegionSummary
from remat_planner.planner.reports.summary import VerificationSummary
from remat_planner.planner.reports.whole_summary import WholeSummary

REPORT_VERSION = 1
"""Raised when a key changes its meaning or goes away."""


def plan_document(summary: WholeSummary | RegionSummary) -> dict[str, Any]:
    """The document of ``summary``: bytes, seconds and fractions (an overhead of 0.02 is 2 %), nothing rounded."""
    document = {"report_version": REPORT_VERSION} | plain(summary)
    if isinstance(summary, WholeSummary):
        document["pinned"] = {op.name: op.reason for op in summary.pinned}
    return document


def verification_document(verification: VerificationSummary) -> dict[str, Any]:
    """The document of a verification."""
    document: dict[str, Any] = plain(verification)
    return document


def plain(value: Any) -> Any:
    """``value`` with dataclasses as dictionaries of their fields; see the metadata in ``summary``."""
    if is_dataclass(value) and not isinstance(value, type):
        document: dict[str, Any] = {}
        for field in fields(value):
            if field.metadata.get("document", True):
                content = plain(getattr(value, field.name))
                document |= content if field.metadata.get("inline") else {field.name: content}
        return document
    if isinstance(value, Mapping):
        return {key: plain(content) for key, content in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(content) for content in value]
    return value
