"""Who may import whom, read out of the source of every module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parent.parent
_MAY_IMPORT = {
    "schedules": set[str](),
    "solvers": {"schedules"},
    "tracer": {"schedules"},
    "planner": {"schedules", "solvers", "tracer"},
}
_THIRD_PARTY = {
    "schedules": {"numpy", "networkx", "pydantic"},
    "solvers": {"numpy", "networkx", "pulp", "highspy", "numba"},
}
_MODULES = [path for package in _MAY_IMPORT for path in sorted((_ROOT / package).rglob("*.py"))]


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level package of every import, wherever in the file it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "a relative import" if node.level else (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", _MODULES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_imports(path: Path) -> None:
    package = path.relative_to(_ROOT).parts[0]
    allowed = {package, *_MAY_IMPORT[package]}
    third_party = _THIRD_PARTY.get(package)
    for line, name in imported(path):
        if name in _MAY_IMPORT:
            assert name in allowed, f"{path}:{line}: {package} must not import {name}"
        elif third_party is not None:
            known = third_party | set(sys.stdlib_module_names)
            assert name in known, f"{path}:{line}: {package} must not import {name}"
        else:
            assert name not in {"tests", "examples", "benchmarks", "a relative import"}, f"{path}:{line}: imports {name}"


def test_every_package_is_looked_at() -> None:
    assert {path.relative_to(_ROOT).parts[0] for path in _MODULES} == set(_MAY_IMPORT)


def test_the_rule_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    import torch.nn\n    from tracer.capture import capture\n    from . import sibling\n")
    assert list(imported(file)) == [(2, "torch"), (3, "tracer"), (4, "a relative import")]
