"""Python functions that a captured graph calls in place of an operator.

They are pure unless their record says otherwise. One that fills a fresh tensor from a random generator says so by its attribute
``draws``; one that has a record, as operators have, got it from ``with_facts``.
"""

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
    """The name given by ``graph_function``, or "module.function" for any other function."""
    name: str | None = getattr(function, "graph_function_name", None)
    return name or f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def is_random_fill(target: Any) -> bool:
    """Whether ``target`` is a graph function that takes a tensor's form and fills a fresh tensor from a random generator."""
    return bool(getattr(target, "draws", False))
