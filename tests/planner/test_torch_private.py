"""Each private name of torch does what the planner uses it for."""

from __future__ import annotations

import gc
import linecache
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.fx import graph_module
from torch.overrides import BaseTorchFunctionMode

from remat_planner.planner.torch_private import (
    below_autograd,
    binding_modules,
    coordinates_and_values,
    current_backward,
    direct_apply,
    forget_removed_hooks,
    forget_source_with,
    graph_is_kept,
    inside_function_mode,
    is_run_by_backward,
    leave_function_mode,
    runs_hooks,
    stands_for_many,
    storage_of,
)


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


def test_a_backward_knows_which_nodes_it_runs():
    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            asked.append([is_run_by_backward(node) for node, _ in ctx.next_functions])
            return gradient, gradient

    asked: list[list[bool]] = []
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    inner = y * 2
    result = Asking.apply(x, inner).sum()
    result.backward(retain_graph=True)
    result.backward(inputs=[x], retain_graph=True)
    torch.autograd.grad(result, [x], retain_graph=True)
    torch.autograd.grad(result, [inner])
    assert asked == [[True, True], [True, False], [True, False], [False, True]]


def test_a_backward_passes_by_hooks_that_are_forgotten():
    x = torch.ones(2, requires_grad=True)
    first, second = x.register_hook(lambda gradient: gradient * 2), x.register_hook(lambda gradient: gradient * 3)
    first.remove()
    forget_removed_hooks(x)
    assert runs_hooks(x)
    x.sum().backward()
    assert x.grad.tolist() == [3, 3]
    second.remove()
    assert x._backward_hooks is not None
    forget_removed_hooks(x)
    assert x._backward_hooks is None
    x.register_hook(lambda gradient: gradient * 4)
    x.grad = None
    x.sum().backward()
    assert x.grad.tolist() == [4, 4]


def test_generated_bindings_are_where_they_are_looked_for():
    assert all(module is not None for module in binding_modules())
    assert type(torch.mul).__name__ == "builtin_function_or_method"
    assert type(torch.Tensor.view).__name__ == "method_descriptor"


def test_the_entries_of_a_sparse_tensor_are_not_summed():
    one_place_twice = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([2.0, 3.0]), (4,), check_invariants=True)
    indices, values = coordinates_and_values(one_place_twice)
    assert indices.tolist() == [[1, 1]]
    assert values.tolist() == [2.0, 3.0]


def test_hooks_of_the_project_itself_are_not_seen():
    def ours(_: torch.Tensor) -> None: ...

    ours.__module__ = "remat_planner.planner.runtime.unplanned"
    parameter = torch.ones(2, requires_grad=True)
    parameter.register_hook(ours)
    assert not runs_hooks(parameter)
    parameter.register_hook(lambda _: None)
    assert runs_hooks(parameter)


def test_hooks_of_a_parameter_are_seen():
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        parameter = torch.ones(2, requires_grad=True)
        assert not runs_hooks(parameter)
        handle = getattr(parameter, register)(lambda _: None)
        assert runs_hooks(parameter)
        handle.remove()
        assert not runs_hooks(parameter)


def test_nodes_that_the_running_backward_goes_through_are_told_from_others():
    x = torch.ones(2, requires_grad=True)
    beside, other = x * 2, x * 3
    seen: list[bool] = []
    inner = x.sin()
    inner.register_hook(lambda _: seen.extend(map(is_run_by_backward, (beside.grad_fn, other.grad_fn))))
    (inner.sum() + beside.sum()).backward()
    assert seen == [True, False]


@pytest.mark.slow
def test_the_source_of_generated_code_is_freed_with_it():
    module = fx.symbolic_trace(nn.Identity())
    key = module.forward.__code__.co_filename
    forget_source_with(module)
    assert linecache.getline(key, 1)
    assert key in graph_module._loader.eval_cache
    assert key in linecache.cache
    del module
    gc.collect()
    assert key not in graph_module._loader.eval_cache
    assert key not in linecache.cache


def test_function_modes_are_seen():
    assert not inside_function_mode(but=BaseTorchFunctionMode)
    with torch.device("cpu"):
        assert inside_function_mode(but=BaseTorchFunctionMode)
    with BaseTorchFunctionMode():
        assert not inside_function_mode(but=BaseTorchFunctionMode)
    assert not inside_function_mode(but=BaseTorchFunctionMode)


def test_a_function_mode_is_left_below_others_and_where_it_is_gone():
    mode, other = BaseTorchFunctionMode(), torch.device("cpu")
    mode.__enter__()
    with other:
        leave_function_mode(mode)
        leave_function_mode(mode)
        assert torch._C._len_torch_function_stack() == 1
    assert not torch._C._len_torch_function_stack()


def test_a_storage_is_there_as_long_as_a_view_of_it():
    tensor = torch.zeros(3)
    view, is_there = tensor[1:], storage_of(tensor)
    del tensor
    assert is_there()
    del view
    assert not is_there()


def test_a_batch_of_tensors_is_told_from_a_tensor():
    told = []
    torch.func.vmap(lambda x: (told.append(stands_for_many(x)), x)[1])(torch.ones(2, 2))
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.register_hook(lambda gradient: told.append(stands_for_many(gradient)))
    torch.autograd.grad(y, x, torch.eye(2), is_grads_batched=True)
    assert told == [True, True]
    assert not stands_for_many(x)
