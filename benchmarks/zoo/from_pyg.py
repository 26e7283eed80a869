"""The architectures of PyTorch Geometric: a network of two layers of each of its graph convolutions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch_geometric.nn as geometric
from torch import nn

from benchmarks.zoo.architectures import Architecture, Candidate, in_words

_NODES, _WIDTH = 24, 8


def architectures() -> list[Architecture]:
    """The ready networks, and each convolution."""
    networks = ("GCN", "GraphSAGE", "GIN", "GAT", "PNA", "EdgeCNN")
    convolutions = [name for name in dir(geometric) if name.endswith("Conv") and isinstance(getattr(geometric, name), type)]
    return [Architecture(name, partial(_candidates, name)) for name in (*networks, *convolutions)]


class _TwoLayers(nn.Module):
    """One convolution after another."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, *graph: Any, **more: Any) -> torch.Tensor:
        x, *rest = graph
        return self.second(self.first(x, *rest, **more).relu(), *rest, **more)


def _candidates(name: str) -> Iterator[Candidate | str]:
    edges = torch.randint(0, _NODES, (2, 4 * _NODES))
    x = torch.randn(_NODES, _WIDTH)
    part = getattr(geometric, name)
    fixed: dict[str, Any] = {
        "in_channels": _WIDTH,
        "hidden_channels": _WIDTH,
        "out_channels": _WIDTH,
        "channels": _WIDTH,
        "num_layers": 2,
        "nn": nn.Linear(_WIDTH, _WIDTH),
        "heads": 1,
        "dim": 1,
        "kernel_size": 2,
        "num_relations": 2,
        "edge_dim": None,
        "aggregators": ["mean", "max"],
        "scalers": ["identity", "amplification"],
        "deg": torch.tensor([0, 2, 8, 8, 6]),
        "K": 2,
        "alpha": 0.1,
        "metadata": None,
    }
    parameters = inspect.signature(part.__init__).parameters
    required = {p.name for p in parameters.values() if p.default is p.empty} | {"aggregators", "scalers", "deg"}
    ready = "hidden_channels" in required
    if name == "PNA":
        required |= {"aggregators", "scalers", "deg"}
    options = {key: value for key, value in fixed.items() if key in required and (key in parameters or name == "PNA")}
    for doubled in (False, True):  # convolutions over edges see two nodes at once
        if doubled:
            options["nn"] = nn.Linear(2 * _WIDTH, _WIDTH)
        try:
            torch.manual_seed(0)
            model = part(**options) if ready else _TwoLayers(part(**options), part(**options))
        except Exception as error:
            yield in_words(error)
            return
        attributes = torch.rand(edges.shape[1], 1)
        kinds = torch.randint(0, 2, (edges.shape[1],))
        for more in ((edges,), (edges, attributes), (edges, kinds), (x, edges)):
            yield Candidate(model.train(), (x, *more))
