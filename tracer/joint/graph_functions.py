"""Python functions that stand in a captured graph in the place of an operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def graph_function(name: str) -> Callable[[Function], Function]:
    """Decorator: ``name`` identifies the function in cost profiles.

    Profiles outlive the layout of the code, so the name is given here and never derived from a module's path. A name may not
    change once it is released: calls under the old name in a user's profile would be estimated instead of looked up.
    """

    def named(function: Function) -> Function:
        function.graph_function_name = name  # type: ignore[attr-defined]
        return function

    return named


def graph_function_name(function: Callable[..., Any]) -> str:
    """The name given by ``graph_function``, or "module.function" for a function of somebody else."""
    given: str | None = getattr(function, "graph_function_name", None)
    return given or f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"
