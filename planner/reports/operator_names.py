"""Short names of operators, as reports show them."""

from __future__ import annotations


def short_operator(kind: str) -> str:
    """ "addmm" for "aten.addmm.default"."""
    parts = kind.split(".")
    return parts[1] if len(parts) == 3 else kind
