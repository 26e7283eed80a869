"""How inner loops are compiled by numba, and whether there is time for it.

Compiled forms are kept on disk, beside the source or, where that cannot be written, in the folder that numba has for the user
(``NUMBA_CACHE_DIR`` names another). Where neither can be written, every process compiles anew, and a warning says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba

from remat_planner.solvers.deadline import Deadline

COMPILING = 15.0
"""Seconds that compiling takes, once per installation; with less time than that, solvers leave compiled loops alone."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_log = logging.getLogger("remat_planner")


def entrance(function: _Function) -> _Function:
    """Compile a function that Python calls, and keep the compiled form on disk if that is possible."""
    njit: Any = numba.njit
    options = {"nogil": True, "error_model": "numpy"}
    try:
        compiled: _Function = njit(cache=True, **options)(function)
    except RuntimeError as error:  # numba found no folder for its cache
        _log.debug("%s", error)
        _say_that_nothing_is_kept()
        compiled = njit(**options)(function)
    return compiled


def inner(function: Callable[..., Any]) -> Any:
    """Compile a function that only compiled code calls: without an entrance from Python that takes a third of the time."""
    njit: Any = numba.njit
    return njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)


def is_compiled(function: Callable[..., Any], sources: Iterable[Path]) -> bool:
    """Whether an ``entrance`` need not be compiled: this process has done it, or an earlier one whose cache is on disk.

    The cache counts if it is younger than all ``sources``, the files of what it calls.
    """
    if function.signatures:  # type: ignore[attr-defined]
        return True
    folder = function.stats.cache_path  # type: ignore[attr-defined]
    if folder is None:
        return False
    module = function.__module__.rpartition(".")[2]
    written = [file.stat().st_mtime for file in Path(folder).glob(f"{module}.*{function.__name__}*.nbi")]
    return max(written, default=0.0) > max(path.stat().st_mtime for path in sources)


def in_time(deadline: Deadline, *, compiled: bool) -> bool:
    """Whether a compiled loop can begin before the deadline: it is ready, or there is time to compile it."""
    return compiled or deadline.remaining > COMPILING


@cache
def _say_that_nothing_is_kept() -> None:
    _log.warning(
        "compiled solvers cannot be kept on disk, neither in %s nor in the user's folder: every process compiles them anew, "
        "about %g s each. Set NUMBA_CACHE_DIR to a folder that can be written",
        Path(__file__).parent,
        COMPILING,
    )
