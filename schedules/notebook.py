"""How a notebook shows a schedule: its facts as a small table."""

from __future__ import annotations

import html
from collections.abc import Mapping


def facts_html(title: str, facts: Mapping[str, str]) -> str:
    """A table with one row for each of ``facts``; no text in it is markup."""
    rows = "".join(
        f'<tr><th style="text-align: left">{html.escape(name)}</th><td style="text-align: left">{html.escape(fact)}</td></tr>'
        for name, fact in facts.items()
    )
    return f"<table><caption>{html.escape(title)}</caption><tbody>{rows}</tbody></table>"


def with_baseline(size: int, baseline: int) -> str:
    """ "60 bytes, 40.0 % below the 100 without recomputation"."""
    saved = 1 - size / baseline if baseline else 0.0
    return f"{size:,} bytes, {saved:.1%} below the {baseline:,} without recomputation"
