"""Inputs that are objects: graphs, dataclasses, batches with attributes. What they hold and what a forward writes there."""

from __future__ import annotations

import gc
import weakref
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import remat_planner
from remat_planner.schedules import Schedule
from remat_planner.tracer.errors import InputsDoNotFitError, PythonStateError
from remat_planner.tracer.torch_private import is_fake


class Graph:
    """Keeps its tensors in a store, which attributes lead to, as those of PyTorch Geometric do."""

    def __init__(self, **tensors: Any) -> None:
        self.__dict__["store"] = {**tensors}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["store"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.store[name] = value

    def __call__(self, name: str) -> Any:
        return self.store[name]


@dataclass(slots=True)
class Slotted:
    x: torch.Tensor
    scale: float
    h: torch.Tensor | None = None
    steps: int = 0


class Encoding(UserDict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(name)
        return self.data[name]


Made = make_dataclass("Made", ["x", "scale"])


def batch(seed: int = 0, rows: int = 12) -> torch.Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """Writes to its input where ``writes``, and returns it where ``returns``."""

    def __init__(self, *, writes: bool = False, returns: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 2)
        self.writes, self.returns = writes, returns

    def forward(self, data: Any) -> Any:
        h = torch.tanh(self.a(data.x)) * data.scale
        if self.writes:
            data.h, data.steps = h, 1
        out = self.b(torch.sin(h))
        if self.returns:
            data.x = out
            return data
        return out


def loss(output: Any) -> torch.Tensor:
    value: torch.Tensor = (output if isinstance(output, torch.Tensor) else output.x).square().mean()
    return value


def planned(model: nn.Module, data: Any, budget: int | str = "100%") -> tuple[nn.Module, Schedule]:
    schedule = remat_planner.plan(model, (data,), loss=loss, budget=budget, solver="greedy", time_limit=1)
    return remat_planner.apply_schedule(model, schedule), schedule


def tensors(data: Any) -> dict[str, Any]:
    return {name: getattr(data, name) for name in ("x", "h", "steps") if hasattr(data, name)}


def assert_same_step(eager: nn.Module, model: nn.Module, ours: nn.Module, one: Any, other: Any) -> None:
    """A step of ``ours``, which plans ``model``, on ``other`` is one of ``eager`` on ``one``."""
    expected, output = eager(one), ours(other)
    assert (output is other) is (expected is one)
    loss(expected).backward()
    loss(output).backward()
    assert torch.equal(loss(expected), loss(output))
    for p, q in zip(eager.parameters(), model.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert torch.equal(p.grad, q.grad)
    for name, value in tensors(one).items():
        now = tensors(other)[name]
        if isinstance(value, torch.Tensor):
            assert not is_fake(now)
            assert torch.equal(now, value)
            assert now.stride() == value.stride()
            assert now.requires_grad == value.requires_grad
            assert (now.grad is None) == (value.grad is None) if value.is_leaf else True
        else:
            assert now == value


KINDS: dict[str, Callable[..., Any]] = {
    "graph": Graph,
    "namespace": SimpleNamespace,
    "slots": Slotted,
    "mapping": Encoding,
    "made at run time": Made,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_tensors_of_an_object_are_inputs(kind: str):
    eager, model = Net(), Net()
    ours, schedule = planned(model, KINDS[kind](x=batch(), scale=2.0))
    assert schedule.origin.inputs["[0]"] == KINDS[kind](x=batch(), scale=2.0).__class__.__qualname__
    assert remat_planner.verify(model, schedule, (KINDS[kind](x=batch(1), scale=2.0),)).identical
    for seed in range(3):
        assert_same_step(eager, model, ours, *(KINDS[kind](x=batch(seed), scale=2.0) for _ in range(2)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Graph, Slotted])
def test_what_a_forward_writes_to_an_object_is_there_after_a_planned_call(kind: Callable[..., Any]):
    eager, model = Net(writes=True, returns=True), Net(writes=True, returns=True)
    ours, schedule = planned(model, kind(x=batch(), scale=2.0))
    verified = remat_planner.verify(model, schedule, (kind(x=batch(), scale=2.0),))
    assert verified.identical
    assert verified.measured_peak_bytes <= schedule.peak_bytes
    for seed in range(2):
        assert_same_step(eager, model, ours, *(kind(x=batch(seed), scale=2.0) for _ in range(2)))


@pytest.mark.slow
def test_an_object_is_followed_from_step_to_step(caplog: pytest.LogCaptureFixture):
    eager, model = Net(writes=True), Net(writes=True)
    one, other = Graph(x=batch(), scale=2.0), Graph(x=batch(), scale=2.0)
    ours, _ = planned(model, other, budget=10_000)

    def change(**entries: Any) -> None:
        one.store.update(entries)
        other.store.update(entries)

    for entries in (
        {},
        {"x": batch(1)},  # the next snapshot in the same object, in which the last step has left h
        {"x": batch(2), "scale": 3.0},
        {"x": batch(3, rows=9)},
        {"x": batch(4).requires_grad_()},
    ):
        change(**entries)
        assert_same_step(eager, model, ours, one, other)
    assert "store['scale'] of the input [0]" in caplog.text


class Other(Graph):
    pass


@pytest.mark.slow
def test_an_object_of_another_class_with_the_same_content_is_another_input():
    class Asks(Net):
        def forward(self, data: Any) -> Any:
            return super().forward(data) * (2 if isinstance(data, Other) else 1)

    eager, model = Asks(), Asks()
    ours, _ = planned(model, Graph(x=batch(), scale=2.0))
    assert_same_step(eager, model, ours, Other(x=batch(), scale=2.0), Other(x=batch(), scale=2.0))


@pytest.mark.slow
def test_a_captured_object_does_not_stay_allocated():
    data = Graph(x=batch(), scale=2.0)
    ours, _ = planned(Net(writes=True), data)
    loss(ours(data)).backward()
    kept = weakref.ref(data)
    del data
    gc.collect()
    assert kept() is None


@pytest.mark.slow
def test_a_packed_sequence_is_an_input():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(8, 4)

        def forward(self, packed: Any) -> Any:
            return torch.tanh(self.rnn(packed)[0].data)

    model = Recurrent()
    _, schedule = planned(model, pack_sequence([batch(rows=5), batch(rows=3)]))
    assert remat_planner.verify(model, schedule, (pack_sequence([batch(1, rows=5), batch(1, rows=3)]),)).identical


def test_what_cannot_be_followed_in_an_object_is_refused_by_name():
    class Deletes(Net):
        def forward(self, data: Any) -> Any:
            del data.store["scratch"]
            return super().forward(data)

    with pytest.raises(PythonStateError, match=r"args\[0\]\.store\['scratch'\]"):
        remat_planner.trace(Deletes(), (Graph(x=batch(), scale=1.0, scratch=1),), loss=loss)
    with pytest.raises(InputsDoNotFitError, match="a SimpleNamespace with tensors inside, in a set"):
        remat_planner.trace(Net(), (SimpleNamespace(x=batch(), scale=1.0, others={batch(1)}),), loss=loss)


@pytest.mark.slow
def test_a_graph_of_pytorch_geometric_is_an_input():
    geometric = pytest.importorskip("torch_geometric.data")

    def graphs(seed: int) -> Any:
        edges = torch.randint(0, 12, (2, 30), generator=torch.Generator().manual_seed(seed))
        return geometric.Batch.from_data_list(
            [geometric.Data(x=batch(k), edge_index=edges, scale=2.0) for k in (seed, seed + 9)]
        )

    class Passes(Net):
        def forward(self, data: Any) -> Any:
            source, target = data.edge_index
            data.x = torch.zeros_like(data.x).index_add(0, target, data.x[source])
            return super().forward(data)

    class Scaled(Passes):
        def forward(self, data: Any) -> Any:
            data.scale = 2.0
            return super().forward(data)

    eager, model = Scaled(returns=True), Scaled(returns=True)
    ours, schedule = planned(model, graphs(0))
    assert remat_planner.verify(model, schedule, (graphs(1),)).identical
    for seed in range(2):
        assert_same_step(eager, model, ours, graphs(seed), graphs(seed))
