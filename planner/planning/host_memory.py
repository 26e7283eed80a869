"""The memory of this machine."""

from __future__ import annotations

from pathlib import Path


def available_on_host() -> int | None:
    """Bytes of memory that are available on this machine; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
