"""Budgets that a GPU's allocator has to keep: on what it hands out, and on what it reserves."""

from __future__ import annotations

import random
import time
from itertools import pairwise

import pytest
import torch
from torch import nn

import remat_planner
from remat_planner.planner.cli.exit_codes import ExitCode
from remat_planner.planner.gpu_allocator.allocator_peak import allocator_peak, with_whole_blocks
from remat_planner.planner.gpu_allocator.caching_allocator import MIB, SMALL, CachingAllocator
from remat_planner.planner.gpu_allocator.replay import replay
from remat_planner.planner.gpu_allocator.reserved import EXPANDABLE, reserved_by
from remat_planner.planner.gpu_allocator.solve import solve_on_gpu
from remat_planner.schedules import Graph, Schedule, simulate
from remat_planner.solvers import Answer, Solver, Task
from tests.planner.command_line import Call


def _planned(budget: int | str, *, time_limit: float = 2, **options: object) -> Schedule:
    sizes = (700, 1900, 2900, 1300, 700)
    layers = [nn.Sequential(nn.Linear(i, o), nn.GELU(), nn.Dropout(0.1)) for i, o in pairwise(sizes)]
    model, x = nn.Sequential(*layers), torch.randn(4000, sizes[0])  # real: planned with this machine's operators
    return remat_planner.plan(
        model,
        (x,),
        budget=budget,
        loss=lambda y: y.square().mean(),
        costs="h100",
        time_limit=time_limit,
        **options,  # type: ignore[arg-type]
    )


@pytest.mark.slow
def test_a_plan_stays_within_a_budget_on_reserved_bytes() -> None:
    allocated = _planned("95%")
    budget = allocated.budget
    of_allocated = reserved_by(allocated)
    assert of_allocated is not None
    assert of_allocated.bytes > budget  # such a budget is one of its own
    reserving = _planned(budget, budget_on="reserved", time_limit=8)
    found = reserved_by(reserving)
    assert found is not None
    assert found.bytes <= reserving.budget == budget
    assert reserving.origin.budget_on == "reserved"
    assert reserving.peak_bytes <= found.bytes
    assert reserving.bound_overhead <= reserving.overhead


@pytest.mark.slow
def test_the_minimum_that_an_error_names_is_feasible() -> None:
    with pytest.raises(remat_planner.InfeasibleBudgetError) as infeasible:
        _planned("10MB", budget_on="reserved")
    least = infeasible.value.minimum
    found = reserved_by(_planned(least, budget_on="reserved"))
    assert found is not None
    assert found.bytes <= least
    assert least % (2 * MIB) == 0


def test_blocks_handed_out_whole_count() -> None:
    """A result of 12 MiB that is gone leaves a block that the next one, of 11.5 MiB, gets whole."""
    sizes = [12 * MIB, 512, 11 * MIB + MIB // 2, MIB]
    graph = Graph.from_dag([1.0] * 4, sizes, [(0, 1), (1, 2), (2, 3)])
    peak = allocator_peak(graph, reserved=False)
    order = (0, 1, 2, 3)
    asked_for = simulate(graph, order).peak_bytes
    fresh = replay(graph, order, CachingAllocator()).peak_allocated
    assert (asked_for, fresh) == (12 * MIB + MIB // 2, 13 * MIB)
    assert fresh < peak(order) <= 1.01 * fresh
    tight = solve_on_gpu(graph, asked_for, peak, solver="auto", time_limit=1)
    assert (tight.status, tight.minimum) == ("infeasible", peak(order))
    assert solve_on_gpu(graph, tight.minimum, peak, solver="auto", time_limit=1).steps == order


def test_a_lower_target_is_tried_even_where_the_time_is_over() -> None:
    """The one with the lowest peak takes longest, and is the last resort."""
    graph = Graph.from_dag([1, 1, 1, 2], [10, 10, 10, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=3)
    order, lower, lowest = (0, 1, 2, 3), (0, 1, 2, 0, 3), (0, 1, 0, 1, 2, 0, 3)

    class Late(Solver):
        """Answers in turn, later than asked."""

        name = "late"
        description = "takes all the time"

        def __init__(self) -> None:
            self.answers = [order, lower]

        def solve(self, task: Task) -> Answer:
            time.sleep(task.deadline.remaining + limit)
            return Answer(lowest if task.budget == 1 else self.answers.pop(0))

    peaks, limit = {order: 32, lower: 30, lowest: 25}, 0.02
    found = solve_on_gpu(graph, 31, peaks.__getitem__, solver=Late(), time_limit=limit)
    assert (found.status, found.steps) == ("feasible", lower)


def test_a_lower_target_starts_from_what_was_found_for_the_budget() -> None:
    """A search with little time left would find less than the search before it did."""
    graph = Graph.from_dag([1, 1, 1, 2], [10, 10, 10, 1], [(0, 1), (1, 2), (0, 3), (2, 3)], backward=3)
    order, other = (0, 1, 2, 3), (0, 1, 2, 0, 3)
    asked: list[tuple[int, set[tuple[int, ...]]]] = []

    class Recording(Solver):
        """Answers with the order, then with one op again."""

        name = "recording"
        description = "notes what it is asked"

        def solve(self, task: Task) -> Answer:
            asked.append((task.budget, set(task.start)))
            return Answer(order if len(asked) == 1 else other)

    peaks = {order: 32, other: 30}
    found = solve_on_gpu(graph, 31, peaks.__getitem__, solver=Recording(), time_limit=1)
    assert found.steps == other
    assert asked[0] == (31, set())
    assert asked[1][0] < 31
    assert all(order in starts for _, starts in asked[1:])


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_no_history_takes_more_than_whole_blocks_do(seed: int) -> None:
    """Whatever was cached before: holes between what stays, of every size."""
    draw = random.Random(seed)
    schedule = _planned("75%", solver="greedy")
    graph, steps = schedule.graph, schedule.steps
    sizes = [storage.bytes for storage in graph.storages if storage.bytes > SMALL]
    used = CachingAllocator()
    holes = [used.allocate(draw.choice(sizes) + draw.randrange(2 * MIB)) for _ in range(200)]
    for block in draw.sample(holes, 150):
        used.free(block)
    before = used.peak_allocated = used.allocated
    found = replay(graph, steps, used).peak_allocated - before
    constants = sum(storage.constant and storage.bytes > SMALL for storage in graph.storages)  # these are cut as well
    assert schedule.peak_bytes < found <= simulate(with_whole_blocks(graph), steps).peak_bytes + constants * MIB


@pytest.mark.slow
def test_every_plan_for_a_gpu_is_within_what_the_allocator_hands_out() -> None:
    for share in ("100%", "75%"):
        schedule = _planned(share)
        found = reserved_by(schedule)
        assert found is not None
        assert schedule.peak_bytes <= found.allocated_bytes <= schedule.budget


@pytest.mark.slow
def test_expandable_segments_count_where_they_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    default = _planned("100%", solver="none", budget_on="reserved")
    monkeypatch.setenv(*EXPANDABLE.split("=", 1))
    expandable = _planned("100%", solver="none", budget_on="reserved")
    found = reserved_by(default)
    assert found is not None
    assert (default.budget, expandable.budget) == (found.bytes, found.expandable_bytes)
    assert found.setting is None  # it is set already


def test_a_budget_on_reserved_bytes_of_a_cpu_is_refused() -> None:
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    with pytest.raises(remat_planner.BudgetError, match="CPU, which has none"):
        remat_planner.plan(model, (x,), budget="100%", loss=lambda y: y.sum(), budget_on="reserved")
    with pytest.raises(remat_planner.BudgetError, match="allocated or reserved"):
        remat_planner.plan(model, (x,), budget="100%", loss=lambda y: y.sum(), budget_on="held")  # type: ignore[arg-type]


@pytest.mark.slow(on_request=True)
def test_the_command(call: Call) -> None:
    run = call("--budget", "20MB", "--budget-on", "reserved", "--device", "h100", "net.py")
    assert run.code == ExitCode.OK, run.err
    shown = " ".join(run.out.split())
    assert "on what the GPU's allocator reserves" in shown
    assert "hands out" in shown
    assert "for fragmentation" in shown
    assert call("--budget", "20MB", "--budget-on", "reserved", "net.py").code == ExitCode.USAGE
    assert call("--budget", "20MB", "--budget-on", "held", "--device", "h100", "net.py").code == ExitCode.USAGE
    fitted = call(
        "fit", "--budget", "24MB", "--budget-on", "reserved", "--device", "h100", "--optimizer", "adamw", "--master-weights",
        "--gradient-dtype", "float32", "--shard", "2", "--time-limit", "1", "net.py",
    )  # fmt: skip
    assert fitted.code == ExitCode.OK, fitted.err
    assert "fits" in fitted.out
