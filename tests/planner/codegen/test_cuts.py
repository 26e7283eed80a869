"""In a process group, gradients are handed over in eager's order."""

from __future__ import annotations

import pytest

from remat_planner.planner.codegen import cuts, emit
from remat_planner.planner.training_state.released_gradients import with_released_gradients
from remat_planner.schedules import lifetimes
from tests.planner.codegen.zoo_steps import captured
from tests.planner.random_schedules import random_steps


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("name", ["plain_sequential", "tied_and_shared", "lstm"])
def test_among_several_processes_gradients_are_handed_over_in_eagers_order(
    name: str, accumulate: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cuts, "order_is_observed", lambda _: True)
    _, joint, graph = captured(name)
    if accumulate:
        graph = with_released_gradients(graph, joint)
    segments = emit(joint, graph, random_steps(graph, 2, evict=0.5)).segments
    assert len(segments) > 1
    assert all(0 < len(segment.gradients) <= 2 for segment in segments)
    leaving = [k for segment in segments for k in segment.gradients]
    last_parts = {k: position for position, k in enumerate(leaving)}
    assert sorted(last_parts, key=last_parts.__getitem__) == list(joint.arrivals)


def test_a_gradient_that_is_not_kept_is_there_while_it_waits_for_its_turn():
    _, joint, graph = captured("plain_sequential")
    first, second = joint.arrivals[:2]  # of a bias and the weight beside it, which is made before
    made = [graph.by_name[joint.gradients[k].node.meta["name"]] for k in (first, second)]
    assert made[1] < made[0]
    steps = range(len(graph.ops))
    waits, kept = with_released_gradients(graph, joint), lifetimes(graph, steps)
    pieces = lifetimes(waits, steps)
    storage = graph.values[graph.ops[made[1]].writes[0]].storage
    assert kept.death[list(kept.storage).index(storage)] == len(graph.ops) - 1
    assert pieces.death[list(pieces.storage).index(storage)] == made[0]
