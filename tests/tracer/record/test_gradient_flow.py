"""The flow of gradients from several tangents: what autograd adds up, where gradients meet, and which leaves they reach."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture
from remat_planner.tracer.joint import GradientFlow, Joint


def tangents(*indices: int) -> frozenset[int]:
    return frozenset(indices)


def flow_of(model: nn.Module, x: torch.Tensor) -> tuple[Joint, GradientFlow]:
    joint = capture(model, (x,))
    assert joint.flow is not None
    return joint, joint.flow


class Heads(nn.Module):
    """Two heads on a trunk, and the trunk's result."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        h = torch.tanh(self.trunk(x))
        return self.first(h), self.second(h), h


@pytest.mark.slow
def test_each_gradient_depends_on_the_outputs_that_its_parameter_reaches():
    joint, flow = flow_of(Heads(), torch.randn(3, 4))
    by_name = {joint.parameters[g.index].name: of for g, of in zip(joint.gradients, flow.gradients, strict=True)}
    assert by_name["trunk.weight"] == tangents(0, 1, 2)
    assert by_name["first.bias"] == tangents(0)
    assert by_name["second.weight"] == tangents(1)


@pytest.mark.slow
def test_the_additions_of_autograd_are_known_with_what_each_term_depends_on():
    joint, flow = flow_of(Heads(), torch.randn(3, 4))
    assert sorted(map(sorted, (of for terms in flow.sums.values() for of in terms))) == [[0], [1], [1, 2], [2]]
    for index in flow.sums:
        assert joint.operators[index].name == "aten.add.Tensor"
    additions = [node for node in joint.ops if node.target is torch.ops.aten.add.Tensor and node.meta["in_backward"]]
    assert {node.meta["operator"] for node in additions} == set(flow.sums)
    assert flow.meetings == {}


def test_an_addition_in_a_formula_is_none_of_autograds():
    class Squares(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            ctx.save_for_backward(x)
            return x * x, x + 1

        @staticmethod
        def backward(ctx: Any, of_square: torch.Tensor, of_sum: torch.Tensor) -> torch.Tensor:
            (x,) = ctx.saved_tensors
            return 2 * x * of_square + of_sum

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> Any:
            return Squares.apply(x * self.weight)

    joint, flow = flow_of(Model(), torch.randn(4))
    assert sum(operator.name == "aten.add.Tensor" and operator.in_backward for operator in joint.operators) == 1
    assert flow.sums == {}
    (meeting,) = flow.meetings.values()
    assert meeting.gradients == (tangents(0), tangents(1))
    assert meeting.missing == "zeros"


class Split(nn.Module):
    """Two halves of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(x).chunk(2, -1)


class VarianceAndMean(Split):
    """Two results of one operator."""

    def forward(self, x: torch.Tensor) -> Any:
        return torch.var_mean(self.linear(x), -1)


class Function(torch.autograd.Function):
    """Asks for None where no gradient arrives."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.set_materialize_grads(False)
        return x * 2, x * 3

    @staticmethod
    def backward(ctx: Any, first: torch.Tensor | None, second: torch.Tensor | None) -> Any:
        return first if second is None else second


class OfFunction(Split):
    """Two results of a Function."""

    def forward(self, x: torch.Tensor) -> Any:
        return Function.apply(self.linear(x))


@pytest.mark.parametrize(("kind", "missing"), [(Split, "zeros"), (VarianceAndMean, "unknown"), (OfFunction, "unknown")])
def test_what_a_node_takes_for_a_gradient_that_does_not_arrive(kind: type[Split], missing: str):
    original = torch.autograd.function.FunctionCtx.set_materialize_grads
    _, flow = flow_of(kind(), torch.randn(3, 4))
    assert [meeting.missing for meeting in flow.meetings.values()] == [missing]
    assert torch.autograd.function.FunctionCtx.set_materialize_grads is original


def test_one_tangent_needs_no_record():
    joint = capture(Heads(), (torch.randn(3, 4),), loss=lambda output: output[0].sum())
    assert joint.flow == GradientFlow((tangents(0),) * len(joint.gradients))


def test_an_addition_is_not_merged_with_an_equal_operator_of_a_formula():
    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.clone(), x.clone()

        @staticmethod
        def backward(ctx: Any, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return second + first

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> Any:
            first, second = Sum.apply(self.one)
            return first + self.other, second + self.other

    joint, flow = flow_of(Model(), torch.randn(4))
    additions = [node for node in joint.ops if node.target is torch.ops.aten.add.Tensor and node.meta["in_backward"]]
    assert len(additions) == 2
    assert additions[0].args == additions[1].args
    assert len(flow.sums) == 1
