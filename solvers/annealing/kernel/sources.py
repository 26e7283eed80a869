"""The files of the kernel, whose compiled form on disk counts only as long as none of them has changed.

numba's cache on disk notices that the file of a function has changed, but not that a function it calls has, in another file. So
only the kernel's entrance is cached, and its cache key includes a digest of all files of the kernel (see ``annealing_loop``).
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path


def sources() -> list[Path]:
    """All files of the kernel."""
    return sorted(Path(__file__).parent.glob("*.py"))


def digest_of_sources() -> int:
    """A number that changes with the text of any file of the kernel."""
    digest = sha256(b"".join(path.read_bytes() for path in sources()))
    return int.from_bytes(digest.digest()[:7], "big")
