"""The parts of the run: incoming gradients, repeated draws, bindings, private names of torch, several processes."""

from __future__ import annotations

import copy
import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import fx, nn

from remat_planner.planner import apply_schedule
from remat_planner.planner.codegen.op_bindings import Binder
from remat_planner.planner.codegen.rng_replay import generator_state, repeating
from remat_planner.planner.codegen.tensor_layout import IncomingForm
from remat_planner.planner.errors import TransformError
from remat_planner.planner.torch_private import (
    below_autograd,
    binding_modules,
    current_backward,
    direct_apply,
    graph_is_kept,
    inside_transform,
    is_view_operator,
)
from remat_planner.tracer import capture, lower
from tests.planner.random_schedules import random_steps, schedule_of
from tests.zoo import ZOO

aten = torch.ops.aten


# ------------------------------------------------------------------------------------------------ incoming gradients


def test_a_gradient_that_fits_is_taken_as_it_is():
    gradient = torch.randn(3, 4)
    assert IncomingForm.of(torch.empty(3, 4)).fit(gradient) is gradient


def test_a_gradient_of_another_layout_is_laid_out_as_captured():
    gradient = torch.randn(1).expand(3, 4)
    form = IncomingForm.of(torch.empty(4, 3).t())
    fitted = form.fit(gradient)
    assert fitted.stride() == (1, 3)
    assert torch.equal(fitted, gradient)


def test_a_gradient_captured_as_expanded_may_arrive_dense():
    form = IncomingForm.of(torch.empty(1).expand(3, 4))
    gradient = torch.randn(4, 3).t()
    assert torch.equal(form.fit(gradient), gradient)


def test_a_gradient_that_does_not_arrive_is_zeros():
    fitted = IncomingForm.of(torch.empty(2, 3, dtype=torch.bfloat16)).fit(None)
    assert fitted.dtype is torch.bfloat16
    assert not fitted.any()


def test_one_tensor_in_two_outputs():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            h = torch.tanh(self.a(x))
            return {"last": h, "all": h}

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(2, 4)
    eager = copy.deepcopy(model)
    ours = apply_schedule(model, schedule_of(capture(model, (x,))))
    for module in (eager, ours):
        output = module(x)
        assert output["last"] is output["all"]
        (output["last"].sum() + output["all"].pow(2).sum()).backward()
    assert torch.equal(model.a.weight.grad, eager.a.weight.grad)


# ------------------------------------------------------------------------------------------------ repeated draws


def test_a_repeated_draw_gives_the_same_and_leaves_the_stream_alone():
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    torch.rand(7)
    state = generator_state(cpu)
    first = torch.rand(5)
    torch.rand(3)
    before = generator_state(cpu)
    repeat = repeating(torch.rand, cpu)
    assert torch.equal(repeat(state, 5), first)
    assert torch.equal(repeat(state, 5), first)
    assert torch.equal(generator_state(cpu), before)


def test_a_repeated_draw_that_fails_leaves_the_stream_alone():
    cpu = torch.device("cpu")

    def failing() -> None:
        torch.rand(3)
        raise MemoryError

    before = generator_state(cpu)
    torch.manual_seed(1)
    state = generator_state(cpu)
    torch.set_rng_state(before)
    with pytest.raises(MemoryError):
        repeating(failing, cpu)(state)
    assert torch.equal(generator_state(cpu), before)


# ------------------------------------------------------------------------------------------------ bindings


def _node(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    graph = fx.Graph()

    def placeholder(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        node = graph.placeholder("x")
        node.meta["val"] = value
        return node

    node = graph.call_function(
        target, tuple(map(placeholder, args)), {name: placeholder(value) for name, value in kwargs.items()}
    )
    node.meta["val"] = target(*args, **kwargs)
    return node


def test_bindings_are_the_operator_itself():
    x = torch.randn(3, 4)
    binder = Binder()
    assert binder.binding(_node(aten.mul.Tensor, x, x)).function is torch.mul
    assert binder.binding(_node(aten.mul.Tensor, x, 2.0)).function is torch.mul
    assert binder.binding(_node(aten.view.default, x, [12])).method == "view"
    assert binder.binding(_node(aten.sum.dim_IntList, x, [0], True)).function is torch.sum
    assert binder.binding(_node(aten.gelu.default, x)).function is torch._C._nn.gelu


def test_a_binding_that_would_reach_another_operator_is_not_taken():
    x = torch.randn(3, 4)
    # torch.mul with a number reaches mul.Tensor, so for mul.Scalar only the operator itself will do.
    binding = Binder().binding(_node(aten.mul.Scalar, x, 2.0))
    assert binding.function is aten.mul.Scalar
    binding = Binder().binding(_node(aten.threshold_backward.default, x, x, 0))
    assert binding.function is aten.threshold_backward.default or binding.function is torch.threshold_backward


def test_generated_code_runs_the_captured_operators():
    """What the bindings reach, operator by operator, is what was captured."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.operators: list[Any] = []

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operators.append(func)
            return func(*args, **(kwargs or {}))

    torch.manual_seed(0)
    case = ZOO["plain_sequential"]()
    joint = capture(case.model, case.args, case.kwargs, loss=case.loss)
    ours = apply_schedule(case.model, schedule_of(joint))
    with Log() as log:
        ours(*case.args)
    captured = [node.target for node in joint.ops if not node.meta["in_backward"]]
    ran = [operator for operator in log.operators if operator is not aten.detach.default]
    assert [op for op in ran if isinstance(op, torch._ops.OpOverload) and not is_view_operator(op) and op in captured] == [
        op for op in captured if isinstance(op, torch._ops.OpOverload) and not is_view_operator(op)
    ]


# ------------------------------------------------------------------------------------------------ private names of torch


def test_below_autograd_records_nothing_and_bumps_versions():
    x = torch.randn(3, requires_grad=True)
    y = torch.randn(3)
    with below_autograd():
        assert (x * 2).grad_fn is None
        y.add_(1)
        view = y.view(3, 1)
        view.add_(1)
    assert y._version == 2


def test_direct_apply_is_apply():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            assert graph_is_kept()
            backwards.append(current_backward())
            return gradient * 2

    x = torch.ones(3, requires_grad=True)
    backwards: list[int] = []
    result = direct_apply(Double)(direct_apply(Double)(x)).sum()
    result.backward(retain_graph=True)
    assert torch.equal(x.grad, torch.full((3,), 4.0))
    result.backward(retain_graph=True)
    assert backwards[0] == backwards[1] != backwards[2] == backwards[3]
    assert current_backward() == -1


def test_generated_bindings_are_where_they_are_looked_for():
    assert all(module is not None for module in binding_modules())
    assert type(torch.mul).__name__ == "builtin_function_or_method"
    assert type(torch.Tensor.view).__name__ == "method_descriptor"


def test_transforms_are_refused():
    assert not inside_transform()
    model, x = nn.Linear(3, 1), torch.randn(2, 3)
    ours = apply_schedule(model, schedule_of(capture(model, (x,), loss=torch.sum)))
    with pytest.raises(TransformError, match="remove_schedule"):
        torch.func.vmap(ours)(x[None])


# ------------------------------------------------------------------------------------------------ several processes


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.dropout(torch.tanh(layer(x)), 0.2, self.training)
        return self.norm(x).pow(2).mean()


def _train_in_parallel(rank: int, address: str, results: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    torch.manual_seed(0)
    eager = _Small()
    model = copy.deepcopy(eager)
    x = torch.randn(8, 16) + rank
    joint = capture(model, (x,))
    graph = lower(joint).graph
    ours = apply_schedule(model, schedule_of(joint, random_steps(graph, 1), graph=graph))
    same = True
    for settings in ({}, {"gradient_as_bucket_view": True}):
        wrapped = [torch.nn.parallel.DistributedDataParallel(m, **settings) for m in (eager, ours)]
        for step in range(2):
            for module in wrapped:
                torch.manual_seed(10 * step + rank)
                module.zero_grad()
                module(x).backward()
                with torch.no_grad():
                    for p in module.parameters():
                        p -= 0.1 * p.grad
        same = same and all(torch.equal(a, b) for a, b in zip(eager.parameters(), model.parameters(), strict=True))
        same = same and all(torch.equal(a, b) for a, b in zip(eager.buffers(), model.buffers(), strict=True))
        del wrapped
    results.put((rank, same))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")
def test_distributed_data_parallel_around_a_planned_module(tmp_path: Any):
    context = torch.multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [
        context.Process(target=_train_in_parallel, args=(rank, str(tmp_path / "rendezvous"), results)) for rank in range(2)
    ]
    for worker in workers:
        worker.start()
    try:
        found = sorted(results.get(timeout=120) for _ in workers)
    finally:
        for worker in workers:
            worker.join(20)
            if worker.is_alive():
                worker.kill()
    assert found == [(0, True), (1, True)]
