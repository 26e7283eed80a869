"""Nodes that are recomputed only together: they share a column, which makes the programs smaller without changing a bound.

Take a node whose only result is read by one node alone, which reads nothing else and writes no more bytes (a square before its
mean, a cast before its only reader). Once both have run, holding the first result is never better than holding the second:
it takes no fewer bytes at any moment, and leaves one node more to recompute. So the first need not be held, and the two are
recomputed together or not at all. Memory is watched at moments only, so every schedule still maps to a solution that costs no
more.
"""

from __future__ import annotations

from remat_planner.solvers.problem import Problem


def followers(problem: Problem) -> dict[int, int]:
    """For each node that is recomputed only together with its reader, that reader."""
    in_place = set(problem.base[problem.in_place].tolist()) | set(problem.in_place.nonzero()[0].tolist())
    sizes = problem.bytes.tolist()
    fixed = problem.pinned | problem.auxiliary
    following: dict[int, int] = {}
    for node in range(problem.n):
        if len(problem.writes[node]) != 1 or fixed[node]:
            continue
        (item,) = problem.writes[node]
        if problem.lasting[item] or item in in_place or len(problem.readers[item]) != 1:
            continue
        (reader,) = problem.readers[item]
        written = problem.writes[reader]
        if fixed[reader] or problem.reads[reader] != (item,) or in_place.intersection(written):
            continue
        if sum(sizes[i] for i in written) <= sizes[item]:
            following[node] = reader
    return following


def last_of(following: dict[int, int], node: int, until: int) -> int:
    """The last node of the chain of fused nodes that ``node`` begins, of the nodes up to ``until``."""
    while (reader := following.get(node, until + 1)) <= until:
        node = reader
    return node
