"""Planned steps with sparse and jagged tensors: eager's bits, within the budget, and after another tensor is put in place."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nested import nested_tensor_from_jagged as jagged
from torch.nn import functional as F  # noqa: N812

from remat_planner import apply_schedule, plan, trace, verify
from tests.tracer.cases import Written, linear, mean_square

pytestmark = pytest.mark.filterwarnings("ignore:Sparse")
_NODES = 32


def _graph(density: float = 0.2, seed: int = 0) -> torch.Tensor:
    """The adjacency of a random graph, each row of which adds up to one."""
    edges = (torch.rand(_NODES, _NODES, generator=torch.Generator().manual_seed(seed)) < density).float()
    edges.fill_diagonal_(1.0)
    return (edges / edges.sum(1, keepdim=True)).to_sparse_coo()


def _attention(h: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    scores = (h[places[0]] * h[places[1]]).sum(-1)
    weights = torch.sparse_coo_tensor(places, scores, (_NODES, _NODES)).coalesce()
    return torch.sparse.mm(torch.sparse.softmax(weights, dim=1), h)


def _twice(places: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """A sparse tensor that has each entry in two halves."""
    return torch.sparse_coo_tensor(places.repeat(1, 2), values.repeat(2) / 2, (_NODES, _NODES))


ADJACENCY = _graph()
PLACES, VALUES = ADJACENCY.indices().data, ADJACENCY.values().data
ROWS = torch.arange(_NODES)[None]
OFFSETS = torch.tensor([0, 5, _NODES])

Between = Callable[..., torch.Tensor]
STEPS: dict[str, tuple[Between, tuple[Any, ...]]] = {
    "coo": (lambda _, h, a: torch.sparse.mm(a, h), (ADJACENCY,)),
    "csr": (lambda _, h, a: a @ h, (ADJACENCY.to_sparse_csr(),)),
    "csc": (lambda _, h, a: a @ h, (ADJACENCY.to_sparse_csc(),)),
    "uncoalesced": (lambda _, h, a: a.coalesce() @ h + a @ h, (_twice(PLACES, VALUES),)),
    "buffer": (lambda m, h: m.adjacency @ h, ()),
    "attribute": (lambda m, h: m.lists[0] @ h, ()),
    "global": (lambda _, h: ADJACENCY @ h, ()),
    "made": (lambda _, h, i, v: torch.sparse_coo_tensor(i, v * 2, (_NODES, _NODES)) @ h, (PLACES, VALUES)),
    "made without a size": (lambda _, h, i, v: torch.sparse_coo_tensor(i, v) @ h, (PLACES, VALUES)),
    "diagonal": (
        lambda _, h, i, v: torch.sparse_coo_tensor(i.expand(2, -1), v, (_NODES, _NODES)) @ h,
        (ROWS, VALUES[:1].expand(_NODES)),
    ),
    "made with gradients": (lambda _, h, i: _attention(h, i), (PLACES,)),
    "to_sparse": (lambda _, h, a: a.to_sparse_csr() @ h, (ADJACENCY.to_dense(),)),
    "to_dense": (lambda m, h: m.adjacency.to_dense() @ h, ()),
    "parts": (lambda _, h, a: torch.zeros_like(h).index_add(0, a.indices()[0], h[a.indices()[1]]) / a._nnz(), (ADJACENCY,)),
    "product of both": (lambda m, h, a: torch.sparse.mm(m.adjacency, a) @ h, (ADJACENCY,)),
    "degrees": (lambda m, h: (m.adjacency @ h) / torch.sparse.sum(m.adjacency, dim=1).to_dense()[:, None], ()),
    "jagged": (lambda _, h, o: F.layer_norm(jagged(h, o), (16,)).sin().values(), (OFFSETS,)),
    "jagged parts": (lambda _, h, o: torch.cat([t.sin() for t in jagged(h, o).unbind()]), (OFFSETS,)),
    "inside an object": (
        lambda _, h, g: g.a @ h + (g.n * 2).values(),
        (SimpleNamespace(a=ADJACENCY, n=jagged(torch.ones(_NODES, 16), OFFSETS)),),
    ),
    "jagged input": (lambda _, h, n: h + (n * 2).values(), (jagged(torch.ones(_NODES, 16), OFFSETS),)),
}


def _model(between: Between) -> Written:
    def forward(m: Written, x: torch.Tensor, *more: Any) -> torch.Tensor:
        for layer in (m.a, m.b, m.c):
            x = F.gelu(between(m, torch.tanh(layer(x)), *more))
        return mean_square(x)

    torch.manual_seed(0)
    model = Written(forward, a=linear(), b=linear(), c=linear())
    model.register_buffer("adjacency", _graph())
    model.lists = [_graph()]  # type: ignore[assignment]
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_least_budget_has_eagers_bits_and_is_kept(name: str):
    between, more = STEPS[name]
    model, args = _model(between), (torch.randn(_NODES, 16), *more)
    schedule = plan(model, args, budget="min", time_limit=2, verify=False)
    verified = verify(model, schedule, args)
    assert verified.identical, verified.differences
    assert verified.within_budget
    assert schedule.peak_bytes < schedule.baseline_peak_bytes


@pytest.mark.slow
@pytest.mark.parametrize("where", ["buffer", "attribute", "input", "object"])
def test_another_graph_later_trains_as_in_eager(where: str):
    steps = {"input": STEPS["coo"], "object": (lambda _, h, g: g.a @ h, ())}
    between, _ = steps.get(where) or STEPS[where]
    models = [_model(between), _model(between)]
    x, graphs = torch.randn(_NODES, 16), [_graph(), _graph(seed=1), _graph(0.4, seed=2)]

    def call(model: nn.Module, called: Callable[..., torch.Tensor], graph: torch.Tensor) -> torch.Tensor:
        if where == "buffer":
            model.adjacency = graph  # type: ignore[assignment]
        elif where == "attribute":
            model.lists[0] = graph  # type: ignore[index, operator]
        return called(x, *inputs(graph))

    def inputs(graph: torch.Tensor) -> tuple[Any, ...]:
        return {"input": (graph,), "object": (SimpleNamespace(a=graph),)}.get(where, ())

    args = (x, *inputs(graphs[0]))
    planned = apply_schedule(models[1], plan(models[1], args, budget="100%", time_limit=2))
    for graph in (*graphs, graphs[0]):
        gradients = []
        for model, called in zip(models, (models[0], planned), strict=True):
            model.zero_grad()
            call(model, called, graph).backward()
            gradients.append([p.grad for p in model.parameters()])
        assert all(map(torch.equal, *gradients))


@pytest.mark.slow
def test_another_jagged_tensor_in_an_object_is_another_input_of_the_same_step(caplog: pytest.LogCaptureFixture):
    def between(_: Written, h: torch.Tensor, g: SimpleNamespace) -> torch.Tensor:
        return h + (g.n * 2).values()

    eager, model, x = _model(between), _model(between), torch.randn(_NODES, 16)
    batches = [SimpleNamespace(n=jagged(torch.randn(_NODES, 16), torch.tensor([0, at, _NODES]))) for at in (5, 9)]
    planned = apply_schedule(model, plan(model, (x, batches[0]), budget="100%", time_limit=2, verify=False))
    with caplog.at_level(logging.INFO, "remat_planner"):
        for batch in batches:
            assert torch.equal(planned(x, batch), eager(x, batch))
    assert not caplog.records


@pytest.mark.slow
def test_values_changed_in_place_are_read():
    model = _model(STEPS["buffer"][0])
    eager = copy.deepcopy(model)
    x = torch.randn(_NODES, 16)
    planned = apply_schedule(model, plan(model, (x,), budget="100%", time_limit=2, verify=False))
    for each in (eager, model):
        each.adjacency.values().mul_(0.5)
    assert torch.equal(planned(x), eager(x))


@pytest.mark.slow
def test_a_sparse_tensor_counts_as_the_tensors_that_it_consists_of():
    args = (torch.randn(_NODES, 16), ADJACENCY)
    graph = trace(_model(STEPS["coo"][0]), args)
    assert graph.constants["inputs"] == args[0].nbytes + PLACES.nbytes + VALUES.nbytes
    assert graph.constants["buffers"] == PLACES.nbytes + VALUES.nbytes
