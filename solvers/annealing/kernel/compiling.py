"""How the kernel is compiled by numba, and whether its compiled form on disk may be used.

numba's cache on disk notices that the file of a function has changed, but not that a function it calls has, in another file. So
only the kernel's entrance is cached, and its cache key includes a digest of all files of the kernel (see ``annealing_loop``).
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


class _Compiler(Protocol):
    def __call__(self, function: Function, /) -> Function: ...


# For the entrance, which Python calls.
entrance: _Compiler = numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[assignment]
# For functions that only compiled code calls: without an entrance from Python they compile in a third of the time.
inner: _Compiler = numba.njit(  # type: ignore[call-overload]
    nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True
)


def source_digest() -> int:
    """A number that changes with the text of any file of the kernel."""
    digest = sha256(b"".join(path.read_bytes() for path in _sources()))
    return int.from_bytes(digest.digest()[:7], "big")


def is_compiled(function: Callable[..., Any]) -> bool:
    """Whether an entrance need not be compiled: this process has done it, or an earlier one whose cache is on disk.

    The cache counts if it is younger than every file of the kernel.
    """
    if function.signatures:  # type: ignore[attr-defined]
        return True
    folder = Path(function.stats.cache_path)  # type: ignore[attr-defined]
    written = [file.stat().st_mtime for file in folder.glob(f"{function.__module__.rpartition('.')[2]}.*.nbi")]
    return max(written, default=0.0) > max(path.stat().st_mtime for path in _sources())


def _sources() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.py"))
