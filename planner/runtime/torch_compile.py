"""Planned code inside of a model that ``torch.compile`` compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def hidden_from_torch_compile(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function``, which ``torch.compile`` then calls without compiling it.

    It would otherwise cut the schedule's code into graphs, compile them, and decide itself how a draw is repeated.
    """
    disable: Callable[..., Any] = torch.compiler.disable
    return disable(function, reason="planned code runs by its schedule and is not compiled")
