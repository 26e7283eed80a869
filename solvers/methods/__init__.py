"""The registered solvers: one file each, with one subclass of ``Solver`` whose ``name`` is the file's name with hyphens.

``registry`` finds the files by name. A new solver is a new file here; CONTRIBUTING.md has the rest.
"""

__all__: list[str] = []
