"""Partitions of real joint graphs: their gradients are those of eager, and nothing is drawn twice.

Both graphs run by PyTorch's own kernels, so nothing is compiled and bits can be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.exc import BackendCompilerFailed
from torch._functorch.compilers import nop

from remat_planner import InfeasibleBudgetError
from remat_planner.planner.partition import partitioner
from remat_planner.planner.partition.largest_sizes import LargestSizes, largest_sizes
from remat_planner.planner.partition.part import CompiledPart
from remat_planner.planner.partition.partitioner import Room, partition
from remat_planner.planner.partition.search import Search

pytestmark = pytest.mark.slow


class Net(nn.Module):
    """Dropout, normalisation with running statistics, and a value that is read far apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + nn.functional.dropout(self.norm(torch.tanh(layer(x))), 0.5, self.training)
        return x.pow(2).mean()


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def backend_within(
    limit: Callable[[int], int],
    parts: list[CompiledPart],
    *,
    always: bool = False,
    searches: dict[str, Search] | None = None,
    largest: dict[str, int] | None = None,
) -> Any:
    """A backend that divides the graph within ``limit`` and runs both halves by PyTorch's kernels."""

    def divide(joint: Any, inputs: Any, *, num_fwd_outputs: int, **_: Any) -> Any:
        graphs, part = partition(
            joint,
            num_fwd_outputs,
            (),
            sizes=largest_sizes(joint.graph, {} if largest is None else largest),
            frame=(0, 0),
            limit=lambda fastest: Room(limit(fastest), limit(fastest)),
            between=0,
            always=always,
            searches={} if searches is None else searches,
        )
        parts.append(part)
        return graphs

    return aot_autograd(fw_compiler=nop, bw_compiler=nop, partition_fn=divide)


def gradients(model: nn.Module, backend: Any = None, **settings: Any) -> list[torch.Tensor]:
    model = copy.deepcopy(model)
    called = model if backend is None else torch.compile(model, backend=backend, fullgraph=True, **settings)
    torch.manual_seed(3)
    for _ in range(2):
        called(torch.randn(32, 16)).backward()
    return [*(parameter.grad for parameter in model.parameters()), *model.buffers()]


def test_gradients_draws_and_statistics_are_those_of_eager():
    torch.manual_seed(0)
    model = Net()
    parts: list[CompiledPart] = []
    ours = gradients(model, backend_within(lambda fastest: int(0.8 * fastest), parts))
    assert parts[0].recomputed
    assert parts[0].peak_bytes <= 0.8 * parts[0].fastest_bytes
    assert all(map(torch.equal, ours, gradients(model)))


def test_a_search_goes_on_where_the_same_graph_is_compiled_again(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = Net()
    expected = gradients(model)
    searches: dict[str, Search] = {}
    parts: list[CompiledPart] = []
    for share in (0.9, 0.8):
        torch._dynamo.reset()
        ours = gradients(model, backend_within(lambda fastest, s=share: int(s * fastest), parts, searches=searches))
        assert all(map(torch.equal, ours, expected))
        assert len(searches) == 1
        monkeypatch.setattr(partitioner, "_step", None)  # it is there
    assert parts[1].peak_bytes < parts[0].peak_bytes
    monkeypatch.undo()
    torch._dynamo.reset()
    model.layers.append(copy.deepcopy(model.layers[0]))
    gradients(model, backend_within(lambda fastest: fastest, parts, searches=searches))
    assert len(searches) == 2


def test_what_reads_overwritten_statistics_is_not_computed_again(monkeypatch: pytest.MonkeyPatch):
    steps = []
    original = partitioner._step
    monkeypatch.setattr(partitioner, "_step", lambda *args: steps.append(original(*args)) or steps[-1])
    gradients(Net(), backend_within(lambda fastest: fastest, []))
    norms = [value for value in steps[0].values.values if "_native_batch_norm_legit" in value.operator]
    assert len(norms) == 4
    assert not norms[0].repeatable  # it reads the model's own statistics, which the step replaces
    assert all(norm.repeatable for norm in norms[1:])


def test_without_any_room_the_lowest_is_taken_or_refused():
    torch.manual_seed(0)
    model = Net()
    parts: list[CompiledPart] = []
    ours = gradients(model, backend_within(lambda _: 1, parts, always=True))
    assert parts[0].peak_bytes < parts[0].fastest_bytes
    assert all(map(torch.equal, ours, gradients(model)))
    with pytest.raises(BackendCompilerFailed) as refused:
        gradients(model, backend_within(lambda _: 1, parts))
    assert isinstance(refused.value.inner_exception, InfeasibleBudgetError)
    assert refused.value.inner_exception.budget == 1
    assert refused.value.inner_exception.minimum == parts[0].peak_bytes
    assert "fits no partition into 1 B" in str(refused.value)
    torch._dynamo.reset()
    with pytest.raises(BackendCompilerFailed, match=r"inputs and what earlier graphs save are 5 B over the budget"):
        gradients(model, backend_within(lambda _: -5, parts))


@pytest.mark.parametrize("dynamic", [False, True])
def test_weights_of_convolutions_pass_as_views(dynamic: bool):
    """As they are, inductor would copy each for the backward."""
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(0, 2))
    passed: list[tuple[int, ...]] = []

    def divide(joint: Any, inputs: Any, *, num_fwd_outputs: int, **_: Any) -> Any:
        def room(_: int) -> Room:
            return Room(here=10**6, whole=10**6)

        settings: dict[str, Any] = {"frame": (0, 0), "limit": room, "between": 0, "always": False, "searches": {}}
        sizes = largest_sizes(joint.graph, {})
        graphs, _ = partition(joint, num_fwd_outputs, (), sizes=sizes, **settings)
        values = (node.meta["val"] for node in graphs[1].graph.nodes if node.op == "placeholder")
        passed.extend(tuple(map(sizes.of, v.shape)) for v in values if isinstance(v, torch.Tensor))
        return graphs

    x = torch.randn(4, 2, 16, 16, requires_grad=True)
    backend = aot_autograd(fw_compiler=nop, bw_compiler=nop, partition_fn=divide)
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=dynamic)
    ours, theirs = (torch.autograd.grad(called(x).square().sum(), [*model.parameters(), x]) for called in (compiled, model))
    assert all(map(torch.equal, ours, theirs))
    assert {(3, 18), (2048,) if dynamic else (4, 512)} <= set(passed)
    assert not {(3, 2, 3, 3), (4, 2, 16, 16)} & set(passed)


class Tied(nn.Module):
    """A weight that is looked up at the beginning and multiplied with at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inside = nn.Embedding(8, 16), nn.Linear(16, 16, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding.weight @ torch.tanh(self.inside(self.embedding(x))).t()


def test_a_product_does_not_wait_for_what_is_added_much_later():
    model, x = Tied(), torch.arange(4)
    orders: list[list[str]] = []

    def divide(joint: Any, inputs: Any, *, num_fwd_outputs: int, **_: Any) -> Any:
        def room(_: int) -> Room:
            return Room(here=10**6, whole=10**6)

        settings: dict[str, Any] = {"frame": (0, 0), "limit": room, "between": 0, "always": False, "searches": {}}
        graphs, _ = partition(joint, num_fwd_outputs, (), sizes=LargestSizes({}), **settings)
        orders.append([str(node.target) for node in graphs[1].graph.nodes if node.op == "call_function"])
        return graphs

    compiled = torch.compile(model, backend=aot_autograd(fw_compiler=nop, bw_compiler=nop, partition_fn=divide), fullgraph=True)
    ours, theirs = (torch.autograd.grad(called(x).square().sum(), [*model.parameters()]) for called in (compiled, model))
    assert all(map(torch.equal, ours, theirs))
    assert "aten.sub.Tensor" in orders[0]
    assert "aten.add.Tensor" not in orders[0]


def test_sizes_that_may_change_are_planned_at_the_largest_seen():
    torch.manual_seed(0)
    model, largest = Net(), dict[str, int]()
    parts: list[CompiledPart] = []
    backend = backend_within(lambda fastest: int(0.8 * fastest), parts, largest=largest)
    compiled = torch.compile(copy.deepcopy(model), backend=backend, fullgraph=True, dynamic=True)
    peaks = []
    for rows in (32, 20, 7, 40, 33):  # compiled for up to 32, then for up to 40
        theirs = copy.deepcopy(model)
        compiled._orig_mod.load_state_dict(model.state_dict())
        for called, trained in ((compiled, compiled._orig_mod), (theirs, theirs)):
            trained.zero_grad()
            torch.manual_seed(3)
            called(torch.randn(rows, 16)).backward()
        ours = compiled._orig_mod
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert all(map(torch.equal, ours.buffers(), theirs.buffers()))
        peaks.append(parts[-1].peak_bytes)
    assert len(parts) == 2
    assert all(part.recomputed and part.peak_bytes <= 0.8 * part.fastest_bytes for part in parts)
    assert largest == {"x.size()[0]": 40}
    torch._dynamo.reset()
    gradients(model, backend_within(lambda fastest: int(0.8 * fastest), parts))  # 32 rows, and no others
    assert parts[2].peak_bytes == peaks[0]
