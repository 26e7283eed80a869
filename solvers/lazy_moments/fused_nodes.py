"""Runs of nodes that are kept or dropped together: what makes the programs of lazy moments smaller without changing a bound.

Let a node's only result be read by one node alone, which reads nothing else and makes no more bytes (a square before its mean,
a cast before what it is for). Once both have run, holding the first result is never better than holding the second in its
place: no more bytes at any moment, and one node less to run again. So it need not be held, and the two run again together or
not at all. In a program that watches memory at moments only, every schedule still maps to a solution of no more cost.
"""

from __future__ import annotations

from remat_planner.solvers.problem import Problem


def followers(problem: Problem) -> dict[int, int]:
    """For each node that runs again only together with its reader, that reader."""
    in_place = set(problem.base[problem.in_place].tolist()) | set(problem.in_place.nonzero()[0].tolist())
    sizes = problem.bytes.tolist()
    fixed = problem.pinned | problem.auxiliary
    found: dict[int, int] = {}
    for node in range(problem.n):
        if len(problem.writes[node]) != 1 or fixed[node]:
            continue
        (item,) = problem.writes[node]
        if problem.lasting[item] or item in in_place or len(problem.readers[item]) != 1:
            continue
        (reader,) = problem.readers[item]
        made = problem.writes[reader]
        if fixed[reader] or problem.reads[reader] != (item,) or in_place.intersection(made):
            continue
        if sum(sizes[i] for i in made) <= sizes[item]:
            found[node] = reader
    return found


def last_of(following: dict[int, int], node: int, until: int) -> int:
    """The node at the end of the run that ``node`` belongs to once every node up to ``until`` has run."""
    while (reader := following.get(node, until + 1)) <= until:
        node = reader
    return node
