"""Random schedules on every model of the zoo: eager's bits, and the simulator's bytes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.codegen import segments as emit
from remat_planner.planner.measurement.peak import StorageMeter
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import trace_step
from remat_planner.planner.training_state.counted_graph import without_gradients
from remat_planner.schedules import Graph, InvalidScheduleError, StaleScheduleError, lifetimes, simulate
from remat_planner.tracer import Joint, capture, lower
from tests.planner.random_schedules import random_steps, schedule_of
from tests.zoo import ZOO, Case, loss_of


@pytest.fixture(autouse=True)
def _one_thread_and_many_segments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(emit, "_CALLS_BETWEEN_CUTS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def captured(name: str) -> tuple[Case, Joint, Graph]:
    torch.manual_seed(0)
    case = ZOO[name]()
    joint = capture(case.model, case.args, case.kwargs, loss=case.loss)
    return case, joint, lower(joint).graph


def step(case: Case, called: nn.Module, seed: int) -> dict[str, torch.Tensor | None]:
    """One training step, gradients accumulated onto what is there; everything it leaves, by name."""
    torch.manual_seed(seed)
    loss = loss_of(case, called(*case.args, **case.kwargs))
    loss.backward()
    found: dict[str, torch.Tensor | None] = {"loss": loss, "random state": torch.get_rng_state()}
    found |= {f"gradient {name}": p.grad for name, p in called.named_parameters()}
    found |= dict(called.named_buffers())
    return {name: None if t is None else t.detach().clone() for name, t in found.items()}


def differing(one: dict[str, torch.Tensor | None], other: dict[str, torch.Tensor | None]) -> list[str]:
    return [
        name
        for name, a in one.items()
        if (a is None) != ((b := other[name]) is None) or (a is not None and b is not None and not torch.equal(a, b))
    ]


@pytest.mark.parametrize("name", ZOO)
def test_random_schedules_have_eagers_bits(name: str):
    case, joint, graph = captured(name)
    start = copy.deepcopy(case.model.state_dict())
    expected = []
    for seed in (3, 4):  # the second step accumulates
        expected.append(step(case, case.model, seed))
    for kind, steps in {
        "keep everything": None,
        "evict half": random_steps(graph, 0, evict=0.5),
        "evict all, often": random_steps(graph, 1, evict=1.0, evict_again=0.1),
    }.items():
        case.model.load_state_dict(start)
        case.model.zero_grad()
        planned = apply_schedule(case.model, schedule_of(joint, steps, graph=graph))
        for number, seed in enumerate((3, 4)):
            assert differing(expected[number], step(case, planned, seed)) == [], (kind, number)
    case.model.load_state_dict(start)
    case.model.zero_grad()


# Fake tensors have other sizes than real ones in a few operators; measured costs put that right.
_WRONG_FAKES = ("autocast", "lstm", "lstm_loop")


@pytest.mark.parametrize("name", ZOO)
def test_the_storages_that_live_are_the_simulators(name: str):
    case, joint, graph = captured(name)
    if name in _WRONG_FAKES:
        traced = trace_step(case.model, case.args, case.kwargs, settings=Settings(loss=case.loss))
        joint, graph = traced.joint, traced.graph
    # The meter sees storages: no generator states, and no workspaces but that of the caller's loss, which is made of storages.
    graph = dataclasses.replace(
        graph,
        ops=tuple(dataclasses.replace(op, replay_bytes=0, workspace=op.workspace if op.outside else 0) for op in graph.ops),
    )
    for seed, evict in ((0, 0.0), (1, 0.5), (2, 1.0)):
        steps = random_steps(graph, seed, evict=evict) if seed else tuple(range(len(graph.ops)))
        planned = apply_schedule(case.model, schedule_of(joint, steps, graph=graph))
        live = simulate(graph, steps).bytes - graph.constant_bytes
        loss_at = next(k for k, i in enumerate(steps) if graph.ops[i].outside)
        known = [leaf for leaf in pytree.tree_leaves((case.args, case.kwargs)) if isinstance(leaf, torch.Tensor)]
        gc.collect()
        gc.disable()
        try:
            meter = StorageMeter([*case.model.parameters(), *case.model.buffers(), *known])
            with meter:
                output = planned(*case.args, **case.kwargs)
                assert meter.peak == max(live[:loss_at], default=0), (evict, "forward", meter.operator)
                loss = loss_of(case, output)
                meter.peak = meter.live
                loss.backward()
            assert meter.peak == max(live[loss_at:]), (evict, "backward", meter.operator)
            del loss, output
            case.model.zero_grad()
            assert meter.live == 0, evict
        finally:
            gc.enable()
            case.model.zero_grad()


def test_generated_code_drops_every_value_at_its_last_use():
    _, joint, graph = captured("plain_sequential")
    planned: Any = apply_schedule(captured("plain_sequential")[0].model, schedule_of(joint, graph=graph))
    program = planned._planned.programs[0].wiring.program
    for module in (program.forward, *(segment.module for segment in program.segments)):
        assert "box.clear()" in module.code
        for node in module.graph.nodes:
            returned = any(user.op == "output" for user in node.users)
            if returned or node.op in ("output", "placeholder"):
                continue
            assert re.search(rf"\b{node.name} = (\w+ = )*None", module.code), node.name


class _TwoDraws(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (torch.nn.functional.dropout(self.a(x), 0.5) * torch.nn.functional.dropout(x, 0.5)).sum()


def test_first_draws_out_of_order_are_refused():
    model, x = _TwoDraws(), torch.randn(4, 8)
    joint = capture(model, (x,))
    graph = lower(joint).graph
    names = {node.meta["name"]: node for node in joint.ops}
    first, second = (i for i, op in enumerate(graph.ops) if op.name in names and names[op.name].meta["random"])
    order = list(range(len(graph.ops)))
    # The second draw reads only the input: it may run before the first as far as the simulator is concerned.
    needed = [i for i in order[: second + 1] if i == second or set(graph.ops[i].writes) & set(graph.ops[second].reads)]
    moved = [*needed, *(i for i in order if i not in needed)]
    simulate(graph, moved)
    with pytest.raises(InvalidScheduleError, match="for the first time") as caught:
        apply_schedule(model, schedule_of(joint, tuple(moved), graph=graph))
    assert caught.value.op == graph.ops[first].name


def test_an_output_computed_after_the_loss_is_refused():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            h = self.inner(x)
            return h.sum(), h + 1

    two = Two()
    joint = capture(two, (torch.randn(2, 4),), loss=lambda output: output[0])
    graph = lower(joint).graph
    late = next(i for i, op in enumerate(graph.ops) if op.kind == "add")
    order = [i for i in range(len(graph.ops)) if i != late]
    with pytest.raises(InvalidScheduleError, match="is not computed in time"):
        apply_schedule(two, schedule_of(joint, (*order, late), graph=graph))


def test_ops_that_the_capture_does_not_have_are_named():
    _, joint, graph = captured("plain_sequential")
    renamed = dataclasses.replace(graph, ops=(dataclasses.replace(graph.ops[0], name="layers.9/addmm.0"), *graph.ops[1:]))
    with pytest.raises(StaleScheduleError, match=r"layers\.9/addmm\.0") as caught:
        apply_schedule(captured("plain_sequential")[0].model, schedule_of(joint, graph=renamed))
    assert len(caught.value.differences) == 1


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("name", ["plain_sequential", "tied_and_shared", "lstm"])
def test_among_several_processes_gradients_are_handed_over_in_eagers_order(
    name: str, accumulate: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(emit, "others_wait", lambda: True)
    _, joint, graph = captured(name)
    if accumulate:
        graph = without_gradients(graph, joint)
    segments = emit.emit(joint, graph, random_steps(graph, 2, evict=0.5)).segments
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
    waits, kept = without_gradients(graph, joint), lifetimes(graph, steps)
    pieces = lifetimes(waits, steps)
    storage = graph.values[graph.ops[made[1]].writes[0]].storage
    assert kept.death[list(kept.storage).index(storage)] == len(graph.ops) - 1
    assert pieces.death[list(pieces.storage).index(storage)] == made[0]
