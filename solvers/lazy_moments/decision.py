"""What a solution of the program decides, and the way between decisions and sequences of nodes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from remat_planner.solvers.problem import Problem, SequenceBuilder


@dataclass(frozen=True)
class Decision:
    """A solution of the program, read.

    Attributes:
        moments: nodes, ascending.
        held: for each moment the items in memory when it runs.
        again: for each moment the nodes recomputed in its window.
        late: auxiliary nodes that do not run at their own place.
    """

    moments: tuple[int, ...]
    held: tuple[frozenset[int], ...]
    again: tuple[frozenset[int], ...]
    late: frozenset[int] = field(default_factory=frozenset)


def emit(problem: Problem, decision: Decision, *, by_index: bool = False) -> list[int]:
    """The sequence for ``decision``. Its memory is the decision's at the moments; between them only a simulation tells."""
    builder = SequenceBuilder(problem, by_index=by_index)
    at = {t: k for k, t in enumerate(decision.moments)}
    lasting = problem.lasting.tolist()
    loss = [node for node in range(problem.n) if problem.outside[node]]
    for node in range(problem.n):
        if node in decision.late:
            continue
        k = at.get(node)
        if k:  # the window computes it for this moment, and no node has needed it so far
            for i in sorted(decision.held[k]):
                if int(problem.producer[i]) in decision.again[k - 1]:
                    builder.fetch(i)
        if loss and node == loss[0]:  # nothing may be recomputed between the ops of the loss
            for i in sorted({i for other in loss for i in problem.reads[other] if problem.producer[i] < node}):
                builder.fetch(i)
        builder.run(node)
        if k is not None:
            held = decision.held[k].union(*(problem.reads[other] for other in loss if other > node >= loss[0]))
            builder.keep([lasting[i] or i in held for i in range(problem.m)])
    ran = set(builder.sequence)
    for node in sorted(decision.late - ran):
        builder.run(node)
    return builder.sequence


def observe(problem: Problem, nodes: Sequence[int], moments: Sequence[int]) -> Decision:
    """The decision of a sequence at ``moments``: the inverse of ``emit``."""
    at = {t: k for k, t in enumerate(moments)}
    current: list[int] = [-1] * problem.m
    instances: list[tuple[int, int]] = []
    ends: list[int] = []
    position = [len(nodes)] * len(moments)
    again: list[set[int]] = [set() for _ in moments]
    late: set[int] = set()
    seen: set[int] = set()
    window = -1
    for step, node in enumerate(nodes):
        if window >= 0 and node <= moments[window]:
            again[window].add(node)
            if node not in seen:
                late.add(node)
        if node in at and node not in seen:
            window = at[node]
            position[window] = step
        for i in problem.reads[node]:
            ends[current[i]] = step
        for i in problem.writes[node]:
            current[i] = len(instances)
            instances.append((i, step))
            ends.append(len(nodes) if problem.lasting[i] and node not in seen else step)
        seen.add(node)
    held: list[set[int]] = [set() for _ in moments]
    for (i, birth), end in zip(instances, ends, strict=True):
        for k in range(bisect_left(position, birth), bisect_right(position, end)):
            held[k].add(i)
    return Decision(tuple(moments), tuple(map(frozenset, held)), tuple(map(frozenset, again)), frozenset(late))


def served_by(problem: Problem, nodes: Sequence[int]) -> list[int]:
    """For each position of a sequence the first run that it serves: the next one, itself included; -1 after the last.

    The first run of an auxiliary node counts as a recomputation: it may come anywhere, for the sake of another node.
    """
    seen: set[int] = set()
    first = []
    for node in nodes:
        first.append(node not in seen and not problem.auxiliary[node])
        seen.add(node)
    served = [-1] * len(nodes)
    upcoming = -1
    for position in range(len(nodes) - 1, -1, -1):
        if first[position]:
            upcoming = nodes[position]
        served[position] = upcoming
    return served
