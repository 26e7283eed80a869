"""Why a step cannot be captured with symbolic sizes."""

from __future__ import annotations


class NotSizedError(Exception):
    """A step has to be captured for each size of its inputs; the text says why."""
