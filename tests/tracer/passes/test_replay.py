"""What nothing writes to is copied into the functional graph; the graph is that of running everything once more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn

from remat_planner.tracer import capture
from remat_planner.tracer.passes.replay import Replay
from remat_planner.tracer.sizes import is_same_joint


class _Written(nn.Module):
    """Statistics, dropout, an in-place activation and a write to a slice, between operators that nothing writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu_(self.norm(self.first(x)))
        low, high = y.mean((2, 3)).softmax(-1).chunk(2, -1)
        z = torch.cat((low, high.tanh()), -1)
        z = z.clone()
        z[:, 1:3] = high[:, :2].exp()
        z[:, 0].mul_(2)
        return torch.var_mean(self.second(nn.functional.dropout(z, 0.5)))[0]


class _OtherLayout(nn.Module):
    """``cumsum_`` of a permuted tensor: out of place its result lies otherwise in memory, and so does all that follows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (x * 2).permute(2, 0, 1)
        y.cumsum_(0)
        return (y.exp() * y.sigmoid()).sum()


def _captured(model: nn.Module, x: torch.Tensor) -> Any:
    return capture(model, (x,), loss=lambda output: output)


@pytest.mark.parametrize(
    ("make", "shape"), [(_Written, (4, 3, 6, 6)), (_OtherLayout, (2, 3, 4))], ids=["values are written", "another layout"]
)
def test_the_graph_is_that_of_running_everything(
    make: Callable[[], nn.Module], shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = make(), torch.randn(shape, requires_grad=True)
    runs: list[fx.Node] = []
    run_node = fx.Interpreter.run_node

    def counted(self: fx.Interpreter, n: fx.Node) -> Any:
        if isinstance(self, Replay) and n.op == "call_function":
            runs.append(n)
        return run_node(self, n)

    monkeypatch.setattr(fx.Interpreter, "run_node", counted)
    copied = _captured(model, x)
    few = len(runs)
    monkeypatch.setattr(Replay, "_is_as_recorded", lambda self, n: False)
    monkeypatch.setattr(Replay, "_as_recorded", lambda self, n, result: result)
    ran = _captured(model, x)
    assert 0 < few < 0.8 * (len(runs) - few)
    assert is_same_joint(copied, ran)
    assert [node.name for node in copied.graph.graph.nodes] == [node.name for node in ran.graph.graph.nodes]
