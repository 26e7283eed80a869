"""``BatchNorm(momentum=None)``: its factor is computed in the graph, and other reads of its counter are guarded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from remat_planner.tracer import capture, lower
from remat_planner.tracer.errors import DataDependentError
from tests.tracer.cases import Written, mean_square


def averaging(batches: int = 0) -> nn.BatchNorm1d:
    norm = nn.BatchNorm1d(16, momentum=None)
    norm.num_batches_tracked.fill_(batches)
    return norm


@pytest.mark.slow
def test_the_factor_is_a_node_and_nothing_is_guarded():
    joint = capture(Written(lambda m, x: mean_square(m.n(m.n(x))), n=averaging()), (torch.randn(4, 16),))
    assert joint.guards.all == []
    calls = [node for node in joint.ops if "factor" in node.meta]
    assert [node.target for node in calls] == [torch.ops.aten.native_batch_norm.default] * 2
    factors = [node.args[node.meta["factor"]] for node in calls]
    assert [factor.target for factor in factors] == [torch.ops.aten.reciprocal.default] * 2
    assert factors[0] is not factors[1]
    names = {op.name for op in lower(joint).graph.ops}
    assert {factor.meta["name"] for factor in factors} <= names


def test_a_counter_without_values_will_do():
    from remat_planner.tracer.torch_private import new_fake_mode

    with new_fake_mode():
        model, x = Written(lambda m, x: mean_square(m.n(x)), n=averaging()), torch.randn(4, 16)
    assert any("factor" in node.meta for node in capture(model, (x,)).ops)


def test_the_module_is_found_through_the_frames_of_a_mode():
    with torch.device("cpu"), torch.device("cpu"), torch.device("cpu"):
        joint = capture(Written(lambda m, x: mean_square(m.n(x)), n=averaging()), (torch.randn(4, 16),))
    assert any("factor" in node.meta for node in joint.ops)


def test_a_factor_that_nothing_takes_is_refused(monkeypatch: pytest.MonkeyPatch):
    def by_hand(x: torch.Tensor, mean: torch.Tensor, *args: Any) -> torch.Tensor:
        return x - mean.mul_(1 - args[4]).add_(x.detach().mean(0) * args[4])

    monkeypatch.setattr(torch.nn.functional, "batch_norm", by_hand)
    with pytest.raises(DataDependentError, match="Give the module a momentum"):
        capture(Written(lambda m, x: mean_square(m.a(m.n(x))), a=nn.Linear(16, 16), n=averaging()), (torch.randn(4, 16),))


def test_a_loss_may_average_too():
    norm = averaging()
    joint = capture(
        Written(lambda m, x: m.a(x), a=nn.Linear(16, 16)), (torch.randn(4, 16),), loss=lambda y: mean_square(norm(y))
    )
    assert joint.loss is not None


def test_a_momentum_stays_a_number():
    joint = capture(Written(lambda m, x: mean_square(m.n(x)), n=nn.BatchNorm1d(16)), (torch.randn(4, 16),))
    assert not any("factor" in node.meta for node in joint.ops)


def test_another_read_of_the_counter_is_guarded():
    def forward(m: Written, x: torch.Tensor) -> torch.Tensor:
        return mean_square(m.n(x)) * float(m.n.num_batches_tracked)

    (guard,) = capture(Written(forward, n=averaging(6)), (torch.randn(4, 16),)).guards.all
    assert guard.expected == 7


@pytest.mark.parametrize("count", [1, 3, 7, 10**6 + 3, 2**31 + 1, 2**53 - 1])
def test_the_factor_is_the_number_that_python_computes(count: int):
    computed = torch.ops.aten.reciprocal.default(torch.tensor(count).to(torch.float64))
    assert float(computed) == 1.0 / float(count)
    assert float(torch.ops.aten.reciprocal.default(torch.full((9,), count).to(torch.float64))[8]) == 1.0 / float(count)
