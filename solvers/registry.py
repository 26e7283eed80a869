"""Which solvers there are. Adding one is a file, a line here, a line in the tests' list and a line in docs/solvers.md."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from remat_planner.solvers.errors import SolverMissingError, UnknownSolverError
from remat_planner.solvers.interface import Solver

_HOUSE = "remat_planner"

# Name: module and class. Modules are imported when their solver is asked for, as some need libraries that others do not.
_REGISTERED = {
    "none": "remat_planner.solvers.methods.none:KeepEverything",
    "every-n": "remat_planner.solvers.methods.every_n:EveryN",
    "blocks": "remat_planner.solvers.methods.blocks:Blocks",
    "chen": "remat_planner.solvers.methods.chen:Chen",
    "revolve": "remat_planner.solvers.methods.revolve:Revolve",
    "treeverse": "remat_planner.solvers.methods.treeverse:Treeverse",
    "rotor": "remat_planner.solvers.methods.rotor:Rotor",
    "knapsack": "remat_planner.solvers.methods.knapsack:Knapsack",
    "greedy": "remat_planner.solvers.methods.greedy:Greedy",
    "ilp": "remat_planner.solvers.methods.ilp:LazyMomentsSolver",
    "checkmate": "remat_planner.solvers.methods.checkmate:Checkmate",
    "auto": "remat_planner.solvers.methods.auto:Auto",
    "twolevel": "remat_planner.solvers.methods.twolevel:TwoLevel",
    "anneal": "remat_planner.solvers.methods.anneal:Anneal",
}


def names() -> tuple[str, ...]:
    """The names of all solvers, installed or not."""
    return tuple(_REGISTERED)


def available() -> dict[str, str]:
    """The solvers that can run here, by name, with a one-line description each."""
    found = {}
    for name in _REGISTERED:
        try:
            found[name] = get(name).description
        except SolverMissingError:
            continue
    return found


@cache
def get(name: str) -> Solver:
    """The solver of this name.

    Raises:
        UnknownSolverError: there is none.
        SolverMissingError: its library is not installed.
    """
    if name not in _REGISTERED:
        raise UnknownSolverError(name, names())
    module, _, attribute = _REGISTERED[name].partition(":")
    try:
        solver: Solver = getattr(import_module(module), attribute)()
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if not library or library == _HOUSE:
            raise
        raise SolverMissingError(name, library) from error
    return solver
