"""Random schedules on every model of the zoo: eager's bits, and the simulator's bytes."""

from __future__ import annotations

import copy
import dataclasses
import gc
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from remat_planner.planner.apply import apply_schedule
from remat_planner.planner.codegen import cuts
from remat_planner.planner.measurement.storage_meter import StorageMeter
from remat_planner.planner.planning.settings import Settings
from remat_planner.planner.planning.step import trace_step
from remat_planner.schedules import simulate
from remat_planner.tracer import lower
from tests.planner.codegen.zoo_steps import captured, differing, step
from tests.planner.random_schedules import random_copies, random_steps, schedule_of
from tests.zoo import ZOO, loss_of

_LARGE = ("unet", "t5", "whisper", "bert", "mamba")  # ``test_promise`` runs these, too
# Fake tensors have other sizes than real ones in a few operators; measured costs put that right.
_WRONG_FAKES = ("autocast", "lstm", "lstm_loop")


@pytest.fixture(autouse=True)
def _one_thread_and_many_segments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ZOO if name not in _LARGE])
def test_random_schedules_have_eagers_bits_in_the_zoo(name: str):
    case, joint, graph = captured(name)
    start = copy.deepcopy(case.model.state_dict())
    expected = []
    for seed in (3, 4):  # the second step accumulates
        expected.append(step(case, case.model, seed))
    for kind, steps in {  # ``test_promise`` keeps everything, too
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_storages_that_live_are_the_simulators_in_the_zoo(name: str, tmp_path: Path):
    case, joint, _ = captured(name)
    graph = lower(joint, sums_in_place=False).graph  # while a dispatch mode is on, autograd adds nothing in place
    if name in _WRONG_FAKES:
        traced = trace_step(case.model, case.args, case.kwargs, settings=Settings(loss=case.loss))
        joint, graph = traced.joint, traced.graph
    # The meter sees storages: no generator states, and no workspaces but that of the caller's loss, which is made of storages.
    graph = dataclasses.replace(
        graph,
        ops=tuple(dataclasses.replace(op, replay_bytes=0, workspace=op.workspace if op.outside else 0) for op in graph.ops),
    )
    variants = [(3, 0.3, 0.5)]
    if name not in _LARGE:
        variants += [(1, 0.5, 0.0), (2, 1.0, 0.0)]
    plain_graph = graph
    for seed, evict, copied in variants:
        graph = plain_graph
        steps = random_steps(graph, seed, evict=evict)
        if copied:
            graph, steps = random_copies(joint, graph, steps, seed, copied=copied)
        planned = apply_schedule(case.model, schedule_of(joint, steps, graph=graph), disk_folder=tmp_path)
        live = simulate(graph, steps).bytes - graph.constant_bytes
        loss_at = next(k for k, i in enumerate(steps) if graph.actions[i].outside)
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
