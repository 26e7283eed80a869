"""Branches that only raise, ``if torch.any(variance < 0): raise ValueError``: a step that works does not take them."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Mapping
from functools import lru_cache


def condition_before_raise(file: str, line: int) -> bool | None:
    """The value, in a step that raises nothing, of the one condition that stands in this line of ``file``.

    True for ``if not ...: raise``, False for ``if ...: raise`` and ``elif ...: raise``. None where there is no such branch, or
    where its condition has several parts or compares the value with a constant of its own.
    """
    return _conditions(file).get(line)


@lru_cache(maxsize=64)
def _conditions(file: str) -> Mapping[int, bool]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # code from elsewhere, or no source at all
        return {}
    return {line: value for branch in ast.walk(tree) if isinstance(branch, ast.If) for line, value in _lines(branch)}


def _lines(branch: ast.If) -> Iterator[tuple[int, bool]]:
    condition, value = branch.test, False
    while isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        condition, value = condition.operand, not value
    if isinstance(branch.body[0], ast.Raise) and not any(map(_has_parts, ast.walk(condition))):
        for line in range(branch.test.lineno, (branch.test.end_lineno or branch.test.lineno) + 1):
            yield line, value


def _has_parts(node: ast.AST) -> bool:
    if isinstance(node, ast.BoolOp | ast.IfExp):
        return True
    return isinstance(node, ast.Compare) and any(
        isinstance(side, ast.Constant) and (side.value is None or isinstance(side.value, bool))
        for side in (node.left, *node.comparators)
    )
