"""Errors about the choice of a solver. Each carries its data."""

from __future__ import annotations


class UnknownSolverError(ValueError):
    """No solver has this name.

    Attributes:
        solver: the requested name.
        names: the names that exist.
    """

    def __init__(self, solver: str, names: tuple[str, ...]) -> None:
        super().__init__(f"there is no solver {solver!r}; choose one of: {', '.join(names)}")
        self.solver = solver
        self.names = names


class SolverMissingError(ImportError):
    """The solver exists, but its library is not installed.

    Attributes:
        solver: the requested name.
        library: the distribution to install.
    """

    def __init__(self, solver: str, library: str) -> None:
        super().__init__(
            f"solver {solver!r} needs {library!r}, which is not installed: run `pip install {library}`, "
            "or choose a solver from solvers.available()"
        )
        self.solver = solver
        self.library = library


class OrderError(ValueError):
    """First executions are asked to move where they cannot, or the order is neither "given" nor "any"."""
