"""The functions that generated code calls are the captured operators."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from remat_planner import apply_schedule
from remat_planner.planner.codegen.op_bindings import Binder
from remat_planner.planner.torch_private import (
    is_view_operator,
)
from remat_planner.tracer import capture
from tests.planner.random_schedules import schedule_of
from tests.zoo import ZOO

aten = torch.ops.aten


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
    """The bindings reach the captured operators, one by one."""
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
