"""Numbers that a node of the graph computes: the factor of ``BatchNorm(momentum=None)`` in ``meta["factor"]``.

An operator takes the number out of a tensor. On fakes, which have none, and where an operator is measured alone, it gets some
number.
"""

from __future__ import annotations

from typing import Any

from torch import fx

_SOME_NUMBER = 1.0


def with_some_number(node: fx.Node, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """``args``, which stand for the arguments of ``node``, with a number in the place of a computed one."""
    position = node.meta.get("factor")
    return args if position is None else (*args[:position], _SOME_NUMBER, *args[position + 1 :])
