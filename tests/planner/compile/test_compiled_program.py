"""Compiled programs recompute the same ops and repeat draws; ``verify`` reports their bits and peak truly."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import fx, nn

import remat_planner
from remat_planner import CompilerError, apply_schedule, verify
from remat_planner.planner.apply import planned_call as call_of
from remat_planner.planner.codegen import cuts, emit
from remat_planner.planner.compile import compilers
from remat_planner.planner.compile.compilers import Compiler, PieceCode
from remat_planner.planner.compile.pieces import pieces_of
from remat_planner.planner.errors import ChangedInBetweenError
from remat_planner.planner.runtime import planned_call, planned_program
from remat_planner.planner.torch_private import inductor_missing
from tests.planner.codegen.zoo_steps import captured, differing, step
from tests.planner.random_schedules import random_steps, schedule_of

needs_a_compiler = pytest.mark.skipif(
    inductor_missing(torch.device("cpu")) != "", reason=f"inductor needs {inductor_missing(torch.device('cpu'))}"
)


@pytest.fixture(autouse=True)
def _one_thread_and_many_segments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 20)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """A stand-in for a compiler that runs the pieces by PyTorch's own kernels; returns the graphs that it compiled."""
    given: list[fx.GraphModule] = []

    def compiled(module: fx.GraphModule, _: list[torch.Tensor]) -> PieceCode:
        given.append(module)

        def code(values: list[Any]) -> Any:
            inputs = tuple(values)
            values.clear()
            return module(*inputs)

        return code

    monkeypatch.setattr(planned_program, "compiler_named", lambda name: Compiler(name, lambda _: True, compiled))
    monkeypatch.setattr(compilers, "inductor_missing", lambda _: "")
    return given


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize(
    "name", ["lstm", "in_place_and_views", "batch_norm_and_counter", "channels_last", "autocast", "own_checkpoint"]
)
def test_pieces_have_eagers_bits_and_recompute_what_the_schedule_does(name: str):
    case, joint, graph = captured(name)
    start = copy.deepcopy(case.model.state_dict())
    expected = [step(case, case.model, seed) for seed in (3, 4)]
    case.model.load_state_dict(start)
    case.model.zero_grad()
    steps = random_steps(graph, 1, evict=1.0, evict_again=0.1)
    ours = apply_schedule(case.model, schedule_of(joint, steps, graph=graph), compiler="inductor")
    assert [differing(expected[k], step(case, ours, seed)) for k, seed in enumerate((3, 4))] == [[], []]
    case.model.load_state_dict(start)
    case.model.zero_grad()

    program = emit(joint, graph, steps)
    graphs = [program.forward.graph, *(segment.module.graph for segment in program.segments)]
    compilable = [piece for g in graphs for piece in pieces_of(g, lambda _: True) if piece.compilable]
    again = 0
    for piece in compilable:
        recomputes = [node.meta["recomputed"] for node in piece.operators]
        assert recomputes == sorted(recomputes, reverse=True), "recomputing begins in the middle of a piece"
        assert max(Counter(node.meta["captured"] for node in piece.operators).values()) == 1
        assert not any(node.meta["captured"].meta["random"] for node in piece.operators)
        again += sum(recomputes)
    assert again > 0
    [planned] = call_of(ours).programs
    assert planned.compiled is not None
    executed = Counter(node.meta["captured"] for g in graphs for node in g.nodes if "captured" in node.meta)
    in_pieces = Counter(node.meta["captured"] for piece in compilable for node in piece.operators)
    assert planned.compiled.operators == sum(in_pieces.values())
    assert all(count <= executed[node] for node, count in in_pieces.items())


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_changes_in_between_are_detected_in_pieces_too():
    case, joint, graph = captured("tied_and_shared")
    model = copy.deepcopy(case.model)
    joint = dataclasses.replace(joint, model=model)
    ours = apply_schedule(model, schedule_of(joint, graph=graph), compiler="inductor")
    output = ours(*case.args, **case.kwargs)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(ChangedInBetweenError):
        (case.loss(output) if case.loss else output).backward()


@pytest.mark.slow
@pytest.mark.usefixtures("uncompiled")
def test_copies_are_compiled_too():
    case, joint, graph = captured("plain_sequential")
    ours = apply_schedule(case.model, schedule_of(joint, graph=graph), compiler="inductor")
    copied = copy.deepcopy(ours)
    assert call_of(copied).compiler == "inductor"
    assert call_of(copied).programs[0].compiled == call_of(ours).programs[0].compiled
    assert verify(copied, call_of(copied).schedule, case.args, loss=case.loss).compiler == "inductor"


@pytest.mark.usefixtures("uncompiled")
def test_equal_bits_are_called_identical_only_where_they_are(monkeypatch: pytest.MonkeyPatch):
    case, joint, graph = captured("plain_sequential")
    ours = apply_schedule(case.model, schedule_of(joint, graph=graph), compiler="inductor")
    found = verify(ours, call_of(ours).schedule, case.args, loss=case.loss)
    assert (found.identical, found.close, found.largest_difference) == (True, True, 0.0)
    run = planned_call.PlannedCall.__call__
    for off, close in ((2**-20, True), (2**-6, False)):
        with monkeypatch.context() as patch:
            patch.setattr(
                planned_call.PlannedCall,
                "__call__",
                lambda self, args, kwargs, off=off: run(self, (args[0] * (1 + off),), kwargs),
            )
            found = verify(ours, call_of(ours).schedule, case.args, loss=case.loss)
        assert not found.identical
        assert found.close is close
        assert found.largest_difference > 0


@pytest.fixture
def _few_segments(monkeypatch: pytest.MonkeyPatch, _one_thread_and_many_segments: None):
    """And no processes beside this one, which take longer to start than these pieces to compile."""
    monkeypatch.setattr(cuts, "CALLS_BETWEEN_CUTS", 400)
    with torch._inductor.config.patch(compile_threads=1):
        yield


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.usefixtures("_few_segments")
def test_inductor_repeats_draws_and_keeps_the_recomputation():
    case, joint, graph = captured("plain_sequential")
    steps = random_steps(graph, 1, evict=1.0, evict_again=0.1)
    ours = apply_schedule(case.model, schedule_of(joint, steps, graph=graph), compiler="inductor")
    schedule = call_of(ours).schedule
    found = verify(ours, schedule, case.args, loss=case.loss)
    assert found.compiler == "inductor"
    assert found.close, (found.largest_difference, found.differences)
    assert found.identical == (found.differences == ())
    assert not any("random state" in name for name in found.differences)
    assert found.within_budget
    assert found.measured_peak_bytes < 1.1 * schedule.peak_bytes
    [planned] = call_of(ours).programs
    assert planned.compiled is not None
    assert planned.compiled.operators > len(planned.compiled.as_they_are)
    assert any("bernoulli" in name for name in planned.compiled.as_they_are)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inner(x))


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.usefixtures("_few_segments")
def test_equal_regions_share_inductors_code():
    torch.manual_seed(0)
    model, x = nn.Sequential(Block(), Block(), Block(), nn.Linear(8, 1)), torch.randn(4, 8, requires_grad=True)
    schedule = remat_planner.plan(model, (x,), budget="100%", loss=torch.mean, regions="Block", time_limit=1)
    applied = apply_schedule(model, schedule, compiler="inductor")
    found = verify(applied, schedule, (x,), loss=torch.mean)
    assert (found.compiler, found.close) == ("inductor", True)
    applied(x).mean().backward()
    codes = {
        id(stage.code)
        for block in list(model)[:3]
        for segment in block.forward.planned.programs[0].wiring.program.segments
        for stage in segment.run._stages
        if "CompiledFxGraph" in type(stage.code).__name__
    }
    segments = sum(len(block.forward.planned.programs[0].wiring.program.segments) for block in list(model)[:3])
    assert 0 < len(codes) < segments


def test_an_unknown_compiler_is_refused():
    case, joint, graph = captured("plain_sequential")
    with pytest.raises(CompilerError, match=r"unknown compiler 'tvm': choose 'inductor'") as caught:
        apply_schedule(case.model, schedule_of(joint, graph=graph), compiler="tvm")
    assert caught.value.compiler == "tvm"


def test_a_machine_without_a_compiler_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch):
    case, joint, graph = captured("plain_sequential")
    monkeypatch.setattr(compilers, "inductor_missing", lambda _: "a C++ compiler")
    with pytest.raises(CompilerError, match=r"needs a C\+\+ compiler to compile for cpu"):
        apply_schedule(case.model, schedule_of(joint, graph=graph), compiler="inductor")


def test_a_compilation_error_names_the_operators(monkeypatch: pytest.MonkeyPatch):
    case, joint, graph = captured("plain_sequential")

    def fails(*_: Any) -> Any:
        raise AssertionError("no")

    monkeypatch.setattr(compilers, "inductor_missing", lambda _: "")
    monkeypatch.setattr(compilers, "compiled_by_inductor", fails)
    with pytest.raises(CompilerError, match=r"AssertionError: no.*aten\.addmm") as caught:
        apply_schedule(case.model, schedule_of(joint, graph=graph), compiler="inductor")
    assert isinstance(caught.value.__cause__, AssertionError)
