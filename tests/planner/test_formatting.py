"""Bytes, seconds and fractions in words."""

from __future__ import annotations

import pytest

from remat_planner.planner.formatting import format_bytes, format_bytes_both, format_percent, format_seconds


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.000 kB"),
        (999_999, "1.000 MB"),
        (245_512_345, "245.5 MB"),
        (10**10, "10.00 GB"),
        (-5_000_000, "-5.000 MB"),
    ],
)
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


def test_other_formats() -> None:
    assert format_bytes_both(12) == "12 B"
    assert format_bytes_both(2**20) == "1.049 MB (1.000 MiB)"
    assert [format_seconds(s) for s in (12.345, 0.0456, 0.000789, 0)] == ["12.3 s", "45.6 ms", "789 µs", "0.00 µs"]
    assert [format_percent(f) for f in (0.07561, 0.33218, 0.0)] == ["7.56 %", "33.2 %", "0.00 %"]
