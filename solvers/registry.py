"""The registered solvers: one for each file in ``methods/``.

A solver is named like its file, with hyphens: ``methods/every_n.py`` holds the solver "every-n". A file is imported only when
its solver is asked for, so that a missing library leaves the other solvers usable.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from remat_planner.solvers.errors import SolverMissingError, UnknownSolverError
from remat_planner.solvers.interface import Solver

_PROJECT = "remat_planner"
_METHODS = f"{_PROJECT}.solvers.methods"
_FOLDERS = (str(Path(__file__).with_name("methods")),)
# The order in which solvers are listed, and in which ``auto`` tries the quick ones. Solvers not named here come last, by name.
_ORDER = (
    *("none", "every-n", "blocks", "chen", "revolve", "treeverse", "rotor", "knapsack", "greedy"),
    *("ilp", "checkmate", "auto", "twolevel", "anneal", "offload", "pofo"),
    *("offload-all", "offload-inputs", "offload-greedy"),
)


@cache
def names() -> tuple[str, ...]:
    """The names of all solvers, installed or not."""
    by_name = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(_FOLDERS))
    return tuple(sorted(by_name, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)))


def available() -> dict[str, str]:
    """The solvers whose libraries are installed: one line of description, by name."""
    descriptions = {}
    for name in names():
        try:
            descriptions[name] = get(name).description
        except SolverMissingError:
            continue
    return descriptions


def resolve(solver: str | Solver) -> Solver:
    """``solver`` itself, or the registered solver of that name.

    Raises:
        TypeError: ``solver`` is neither a name nor an instance of ``Solver``.
        UnknownSolverError, SolverMissingError: see ``get``.
    """
    if isinstance(solver, Solver):
        return solver
    if not isinstance(solver, str):
        raise TypeError(f"the solver is {solver!r}: give a name from available(), or an instance of a subclass of Solver")
    return get(solver)


@cache
def get(name: str) -> Solver:
    """The registered solver of this name.

    Raises:
        UnknownSolverError: no solver has this name.
        SolverMissingError: the solver's library is not installed.
    """
    if name not in names():
        raise UnknownSolverError(name, names())
    try:
        module = import_module(f"{_METHODS}.{name.replace('-', '_')}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if not library or library == _PROJECT:
            raise
        raise SolverMissingError(name, library) from error
    (solver,) = (member for member in vars(module).values() if _is_solver_of(module.__name__, member))
    return solver()


def _is_solver_of(module: str, member: object) -> bool:
    return isinstance(member, type) and issubclass(member, Solver) and member.__module__ == module
