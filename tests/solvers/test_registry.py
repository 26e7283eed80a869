"""The registry: which solvers exist, in which order, and what happens when a library is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from remat_planner.schedules import Graph
from remat_planner.solvers import SolverMissingError, UnknownSolverError, available, methods, registry, solve
from tests.solvers.helpers import SOLVERS


def test_the_list_is_complete() -> None:
    assert set(SOLVERS) == set(registry.names())


def test_the_page_on_solvers_has_a_line_for_each() -> None:
    page = (Path(__file__).parents[2] / "docs" / "solvers.md").read_text()
    assert [name for name in registry.names() if f"| `{name}` |" not in page] == []


def test_names_are_those_of_the_files() -> None:
    for name in registry.names():
        assert registry.get(name).name == name
        assert type(registry.get(name)).__module__ == f"{methods.__name__}.{name.replace('-', '_')}"


def test_the_order_is_fixed() -> None:
    """``auto`` asks the quick solvers in this order, and the command lists all in it."""
    order = "none every-n blocks chen revolve treeverse rotor knapsack greedy ilp checkmate auto twolevel anneal "
    copying = "offload pofo offload-all offload-inputs offload-greedy"
    assert " ".join(registry.names()) == order + copying


def test_auto_runs_these_in_turns_and_nothing_slow() -> None:
    quick = [name for name in registry.names() if registry.get(name).quick]
    assert " ".join(quick) == "none every-n blocks chen revolve treeverse rotor knapsack greedy"


def test_a_new_solver_is_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "brand_new.py").write_text(
        "from remat_planner.solvers.chain import SnapshotSolver\n"  # an imported class is not the file's solver
        "from remat_planner.solvers.interface import Answer, Solver\n\n"
        "class BrandNew(Solver):\n"
        "    name = 'brand-new'\n"
        "    description = 'runs every op once'\n\n"
        "    def solve(self, task):\n"
        "        return Answer(steps=range(len(task.graph.ops)))\n"
    )
    before = registry.names()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "_FOLDERS", (*registry._FOLDERS, str(tmp_path)))
    registry.names.cache_clear()
    try:
        assert registry.names() == (*before, "brand-new")
        assert available()["brand-new"] == "runs every op once"
        assert not registry.get("brand-new").quick
        assert solve(Graph.from_dag([1], [1], []), 1, solver="brand-new").solver == "brand-new"
    finally:
        monkeypatch.undo()
        registry.names.cache_clear()


def test_an_unknown_solver_is_told_the_names() -> None:
    with pytest.raises(UnknownSolverError, match=r"'gurobi'.*rotor") as error:
        solve(Graph.from_dag([1], [1], []), 1, solver="gurobi")
    assert error.value.names == registry.names()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named 'highspy' in {module}", name="highspy._core")

    registry.get.cache_clear()
    monkeypatch.setattr(registry, "import_module", missing)
    try:
        with pytest.raises(SolverMissingError, match="pip install highspy") as error:
            solve(Graph.from_dag([1], [1], []), 1, solver="ilp")
        assert error.value.library == "highspy"
        assert available() == {}
    finally:
        monkeypatch.undo()
        registry.get.cache_clear()


def test_a_fault_of_our_own_is_not_a_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(module, name="remat_planner.nowhere")

    registry.get.cache_clear()
    monkeypatch.setattr(registry, "import_module", missing)
    try:
        with pytest.raises(ModuleNotFoundError, match="solvers"):
            registry.get("none")
    finally:
        monkeypatch.undo()
        registry.get.cache_clear()


def test_available_describes() -> None:
    assert set(available()) <= set(registry.names())
    assert all(description and "\n" not in description for description in available().values())
