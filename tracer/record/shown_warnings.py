"""Warnings while a forward is recorded beside a training that goes on: none is shown, and none is shown once more afterwards.

Python shows a warning once for each place, and forgets what it has shown when a filter changes. PyTorch changes filters often.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


@contextmanager
def shown_warnings_kept() -> Iterator[None]:
    """Show no warnings of this thread inside, and remember afterwards which ones were shown before."""
    shown, thread = warnings.showwarning, threading.get_ident()

    def show(*args: Any, **kwargs: Any) -> None:
        if threading.get_ident() != thread:
            shown(*args, **kwargs)

    warnings.showwarning = show
    before = _version()
    known = [(registry, dict(registry)) for registry in _registries() if registry.get("version") == before]
    try:
        yield
    finally:
        after = _version()
        warnings.showwarning = shown
        for registry, content in known:
            registry.clear()
            registry.update(content, version=after)


def _registries() -> list[dict[Any, Any]]:
    """Where Python remembers what it has shown: for each module, and one for filters that show a warning once."""
    modules = [module for module in list(sys.modules.values()) if module is not None]
    found = [getattr(module, "__dict__", {}).get("__warningregistry__") for module in modules]
    return [registry for registry in (*found, warnings.onceregistry) if isinstance(registry, dict)]  # type: ignore[attr-defined]


def _version() -> Any:
    """The number of the filters, which Python writes on what it remembers as shown."""
    registry: dict[Any, Any] = {}
    with suppress(_Unseen):  # where a filter makes errors of warnings
        warnings.warn_explicit("", _Unseen, "", 0, registry=registry)
    return registry.get("version")


class _Unseen(Warning):
    """Asks for the number."""
