"""Which solvers there are. Adding one is a file, a line here, a line in the tests' list and a line in docs/solvers.md."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from solvers.base import Solver
from solvers.errors import SolverMissingError, UnknownSolverError

_HOUSE = ("solvers", "schedules")

# Name: module and class. Modules are imported when their solver is asked for, as some need libraries that others do not.
_REGISTERED = {
    "none": "solvers.keep_everything:KeepEverything",
    "every-n": "solvers.every_n:EveryN",
    "blocks": "solvers.blocks:Blocks",
    "chen": "solvers.chen:Chen",
    "revolve": "solvers.revolve:Revolve",
    "treeverse": "solvers.treeverse:Treeverse",
    "rotor": "solvers.rotor:Rotor",
    "knapsack": "solvers.knapsack:Knapsack",
    "greedy": "solvers.greedy:Greedy",
    "ilp": "solvers.ilp:LazyMomentsSolver",
    "checkmate": "solvers.checkmate:Checkmate",
    "auto": "solvers.auto:Auto",
    "twolevel": "solvers.twolevel:TwoLevel",
    "anneal": "solvers.anneal:Anneal",
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
        if not library or library in _HOUSE:
            raise
        raise SolverMissingError(name, library) from error
    return solver
