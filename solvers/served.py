"""On whose behalf each run of a sequence is."""

from __future__ import annotations

from collections.abc import Sequence

from solvers.problem import Problem


def served_by(problem: Problem, nodes: Sequence[int]) -> list[int]:
    """For each position the first run on whose behalf it runs: the next one, itself included; -1 after the last.

    Auxiliary nodes serve others: their first run may be anywhere.
    """
    seen: set[int] = set()
    first = []
    for node in nodes:
        first.append(node not in seen and not problem.auxiliary[node])
        seen.add(node)
    answer = [-1] * len(nodes)
    upcoming = -1
    for position in range(len(nodes) - 1, -1, -1):
        if first[position]:
            upcoming = nodes[position]
        answer[position] = upcoming
    return answer
