"""A solver that copies all that the forward saves for the backward."""

from __future__ import annotations

from remat_planner.solvers import Answer, Solver, Task
from remat_planner.solvers.problem.views import Views


class CopySaved(Solver):
    """Stores each copyable storage after its last use in the forward, and loads it before its first use in the backward."""

    name = "copy-saved"
    description = "copies all that the forward saves"
    copies = True

    def solve(self, task: Task) -> Answer:
        """Every op once, in the given order, with transfers to the first pool."""
        graph = task.graph
        sequence = [i for i in range(len(graph.ops)) if i not in graph.free_views]
        turn = next(place for place, i in enumerate(sequence) if graph.ops[i].phase == "backward")
        issued: list[tuple[float, int]] = list(enumerate(sequence))
        for storage in graph.copied:
            uses = [
                place
                for place, i in enumerate(sequence)
                if storage in {graph.values[value].storage for value in (*graph.ops[i].reads, *graph.ops[i].writes)}
            ]
            before, after = [use for use in uses if use < turn], [use for use in uses if use >= turn]
            if before and after:
                store, release, load = graph.copy_steps(storage, graph.pools[0].name)
                issued += [(before[-1] + 0.1, store), (before[-1] + 0.2, release), (after[0] - 0.1, load)]
        return Answer(Views(graph).restore(i for _, i in sorted(issued)))
