"""``ScheduleBackend``: torch.compile saves what the schedule retains, and its gradients are right."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed

import remat_planner
from remat_planner import CompilerError, SavedSetError, ScheduleBackend
from remat_planner.planner.compile.graph_alignment import retained_storages
from remat_planner.planner.torch_private import inductor_missing
from remat_planner.schedules import Schedule
from remat_planner.tracer import capture, lower
from tests.planner.codegen.zoo_steps import captured
from tests.planner.random_schedules import random_steps, schedule_of
from tests.zoo import Case, loss_of


@pytest.fixture(autouse=True)
def _one_thread_and_nothing_compiled():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(threads)


def schedules(name: str) -> tuple[Case, list[Schedule]]:
    """Keep everything, about half, and nothing."""
    case, joint, graph = captured(name)
    steps = [None, random_steps(graph, 1, evict=0.5, evict_again=0.0), random_steps(graph, 2, evict=1.0, evict_again=0.0)]
    return case, [schedule_of(joint, chosen, graph=graph) for chosen in steps]


def gradients(case: Case, backend: Any = None) -> tuple[list[torch.Tensor | None], list[int]]:
    """A step's gradients, and bytes of each storage that the compiled function saves, except parameters, buffers and inputs."""
    model = copy.deepcopy(case.model)
    called = model if backend is None else torch.compile(model, backend=backend, fullgraph=True)
    torch.manual_seed(3)
    output = called(*case.args, **case.kwargs)
    saved: dict[int, int] = {}
    if backend is not None:
        there = [*model.parameters(), *model.buffers(), *case.args, *case.kwargs.values()]
        known = {t.untyped_storage().data_ptr() for t in there if isinstance(t, torch.Tensor)}
        node: Any = next(leaf for leaf in torch.utils._pytree.tree_leaves(output) if getattr(leaf, "grad_fn", None)).grad_fn
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in node.saved_tensors}
        saved = {place: size for place, size in storages.items() if place not in known}
    loss_of(case, output).backward()
    return [p.grad for p in model.parameters()], sorted(saved.values())


def equal(one: list[torch.Tensor | None], other: list[torch.Tensor | None]) -> bool:
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", ["low_rank", "tied_and_shared", "plain_sequential"])
def test_the_saved_set_is_the_retained_one(name: str):
    case, choices = schedules(name)
    eager, _ = gradients(case)
    found = []
    for schedule in choices:
        backend = ScheduleBackend(schedule)
        assert backend.saved is None
        ours, saved = gradients(case, backend)
        assert equal(ours, eager)
        assert backend.saved is not None
        assert backend.saved.saved_bytes == sum(saved)
        kept = sorted(schedule.graph.storages[storage].bytes for storage in retained_storages(schedule))
        if name != "plain_sequential":  # its dropout's mask takes other bytes, and is not drawn again
            assert not backend.saved.beyond_plan
            assert [size for size in kept if size > 8] == [size for size in saved if size > 8]
            assert backend.saved.kept_bytes - backend.saved.honoured_bytes <= 8  # the weight of a mean loss
        found.append(backend.saved)
    assert found[0].kept_bytes > found[1].kept_bytes > found[2].kept_bytes == 0 or name == "tied_and_shared"
    assert found[2].honoured_bytes == 0
    assert bool(found[2].beyond_plan) == (name == "plain_sequential")


def test_statistics_are_updated_once():
    case, choices = schedules("channels_last")
    eager, _ = gradients(case)
    for schedule in choices:
        ours, _ = gradients(case, ScheduleBackend(schedule))
        assert equal(ours, eager)


class Chain(nn.Module):
    def __init__(self, act: Any = torch.tanh) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8, bias=False) for _ in range(3))
        self.act = act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return x.sum()


def test_another_graph_is_refused_and_the_error_names_the_missing_ops():
    torch.manual_seed(0)
    model, x = Chain(), torch.randn(4, 8)
    joint = capture(model, (x,))
    schedule = schedule_of(joint, graph=lower(joint).graph)
    with pytest.raises(BackendCompilerFailed, match=r"SavedSetError.*has no result of tanh") as caught:
        torch.compile(Chain(torch.sigmoid), backend=ScheduleBackend(schedule))(x)
    inner = caught.value.inner_exception  # type: ignore[attr-defined]
    assert isinstance(inner, SavedSetError)
    assert inner.ops == ("tanh.0", "tanh.1", "tanh.2")


def test_shapes_that_may_change_are_refused():
    torch.manual_seed(0)
    model, x = Chain(), torch.randn(4, 8)
    joint = capture(model, (x,))
    schedule = schedule_of(joint, graph=lower(joint).graph)
    with pytest.raises(BackendCompilerFailed, match="dynamic=False"):
        torch.compile(model, backend=ScheduleBackend(schedule), dynamic=True)(x)


def test_a_schedule_by_regions_is_refused():
    torch.manual_seed(0)
    model, x = Chain(), torch.randn(4, 8, requires_grad=True)
    schedule = remat_planner.plan(model, (x,), budget="100%", regions="layers.*", time_limit=1)
    with pytest.raises(SavedSetError, match="without regions"):
        ScheduleBackend(schedule)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.skipif(inductor_missing(torch.device("cpu")) != "", reason=f"needs {inductor_missing(torch.device('cpu'))}")
def test_inductor_saves_the_same():
    torch.manual_seed(0)
    case = Case(Chain(), (torch.randn(4, 8),), {}, None)
    joint = capture(case.model, case.args)
    graph = lower(joint).graph
    schedule = schedule_of(joint, random_steps(graph, 1, evict=0.5, evict_again=0.0), graph=graph)
    eager, _ = gradients(case)
    backend = ScheduleBackend(schedule, compiler="inductor")
    with torch._inductor.config.patch(compile_threads=1):
        ours, saved = gradients(case, backend)
    assert backend.saved is not None
    assert backend.saved.saved_bytes == backend.saved.honoured_bytes == sum(saved) > 0
    for one, other in zip(ours, eager, strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)


def test_an_unknown_compiler_is_refused_at_once():
    _, (schedule, *_) = schedules("low_rank")
    with pytest.raises(CompilerError, match=r"unknown compiler 'nvfuser': choose 'inductor'"):
        ScheduleBackend(schedule, compiler="nvfuser")
