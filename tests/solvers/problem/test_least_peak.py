"""What is told of a budget that one moment exceeds: bytes that are needed at once, none of which can be left out."""

from __future__ import annotations

from hypothesis import assume, given

from remat_planner.schedules import Graph
from remat_planner.solvers import irreducible, solve
from remat_planner.solvers.problem import least_peak
from tests.sampling import examples
from tests.strategies import graphs


def test_of_what_exceeds_the_room_the_smallest_parts_are_left_out() -> None:
    sizes = {0: 5, 1: 1, 2: 3, 3: 2}
    assert irreducible(sizes, 7) == (0, 2)
    assert irreducible(sizes, 10) == (0, 2, 3, 1)
    assert irreducible(sizes, 4) == (0,)
    assert irreducible(sizes, -1) == ()


@examples(60)
@given(graphs(max_ops=8))
def test_the_storages_of_a_conflict_exceed_the_budget_and_none_can_be_left_out(graph: Graph) -> None:
    least, setter, _ = least_peak(graph)
    rest = graph.constant_bytes + (0 if setter is None else graph.ops[setter].workspace)
    budget = (least + rest) // 2
    assume(rest < budget < least)
    found = solve(graph, budget, solver="none")
    assert found.conflict is not None
    assert (found.conflict.op, found.conflict.bytes) == (None if setter is None else graph.ops[setter].name, least)
    sizes = [graph.storages[s].bytes for s in found.conflict.storages]
    assert sum(sizes) + rest > budget
    assert all(sum(sizes) - size + rest <= budget for size in sizes)
