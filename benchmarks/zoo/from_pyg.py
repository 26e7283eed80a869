"""The architectures of PyTorch Geometric: its convolutions, two layers of each, its ready networks, and its aggregations."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch_geometric.nn as geometric
from torch import nn
from torch.utils import _pytree as pytree

from benchmarks.zoo.architectures import Architecture, Candidate, in_words

_NODES, _WIDTH, _EDGE_WIDTH, _GRAPHS = 24, 8, 4, 3
_ENTERED = ("x", "x_dict", "xs", "xs_dict", "x_0", "z")
"""Inputs that come from a layer in front of the part, so that parts without parameters of their own train something."""

_SIGHTS = (_WIDTH, 2 * _WIDTH)
"""Widths of what a convolution's own network sees: a node, or the two ends of an edge."""

_PNA = {"aggregators": ["mean", "max"], "scalers": ["identity", "amplification"], "deg": torch.tensor([0, 2, 8, 8, 6])}
_OF_CLASS: dict[str, dict[str, Any]] = {
    "PNA": _PNA,
    "GraphMultisetTransformer": {"k": 4},
    "DeepGCNLayer": {"conv": geometric.GCNConv(_WIDTH, _WIDTH), "norm": nn.LayerNorm(_WIDTH), "act": nn.ReLU()},
    "LINKX": {"num_nodes": _NODES},
    "MultiAggregation": {"aggrs": ["mean", "std", "softmax"]},
    "JumpingKnowledge": {"mode": "lstm", "channels": _WIDTH, "num_layers": 3},
    "HeteroJumpingKnowledge": {"mode": "cat", "types": ["a", "b"]},
    "DegreeScalerAggregation": {"scaler": ["linear", "amplification"], "aggr": ["mean", "max"]},
    "EquilibriumAggregation": {"num_layers": [_WIDTH]},
    "MLPAggregation": {"num_layers": 2, "hidden_channels": _WIDTH},
    "MLP": {"channel_list": [_WIDTH, 2 * _WIDTH, _WIDTH]},
    "GroupAddRev": {"conv": geometric.GCNConv(_WIDTH // 2, _WIDTH // 2), "num_groups": 2},
    "FusedGATConv": {"add_self_loops": False, "edge_dim": None},
    "Node2Vec": {"edge_index": torch.tensor([[0, 1, 2], [1, 2, 0]]), "walk_length": 4, "context_size": 2},
    "GPSENodeEncoder": {"dim_pe_out": _WIDTH // 2},
}
"""Arguments of single parts, which their signatures do not ask for or mean otherwise."""


def architectures() -> list[Architecture]:
    """One for each convolution, network and aggregation that the library exports."""
    found = {name for name in dir(geometric) if name.endswith("Conv")} | {*geometric.models.__all__, *geometric.aggr.__all__}
    parts = {name: getattr(geometric, name, None) for name in sorted(found - {"Aggregation"})}
    return [Architecture(name, partial(_candidates, part)) for name, part in parts.items() if _is_network(part)]


def _is_network(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, nn.Module) and part.forward is not nn.Module.forward


class _Network(nn.Module):
    """A part behind a linear layer; where it gives each node a row again, a second one behind another linear layer."""

    def __init__(self, first: nn.Module, second: nn.Module, inputs: dict[str, Any]) -> None:
        super().__init__()
        self.enter, self.first, self.second = nn.Linear(_WIDTH, _WIDTH), first, None
        copies = pytree.tree_map_only(torch.Tensor, torch.clone, inputs)  # an invertible part frees what it is given
        with torch.no_grad():
            hidden = self.first(*_positional(self.first, copies), **_by_name(self.first, copies))
        x = inputs.get("x")
        if isinstance(hidden, torch.Tensor) and isinstance(x, torch.Tensor) and hidden.shape[:-1] == x.shape[:-1]:
            self.between, self.second = nn.Linear(hidden.shape[-1], _WIDTH), second

    def forward(self, **inputs: Any) -> Any:
        for name in _ENTERED:
            if name in inputs and pytree.tree_leaves(inputs[name])[0].is_floating_point():
                inputs[name] = pytree.tree_map(self.enter, inputs[name])
        hidden = self.first(*_positional(self.first, inputs), **_by_name(self.first, inputs))
        if self.second is None:
            return hidden
        inputs["x"] = self.between(hidden.relu())
        return self.second(*_positional(self.second, inputs), **_by_name(self.second, inputs))


def _positional(part: nn.Module, inputs: dict[str, Any]) -> tuple[Any, ...]:
    """What a forward takes as ``*args`` before anything else: nodes and edges, in the form that its name says."""
    first = next(iter(inspect.signature(part.forward).parameters.values()))
    if first.kind is not first.VAR_POSITIONAL:
        return ()
    end = "_dict" if first.name.endswith("_dict") else ""
    return (inputs[f"x{end}"], inputs[f"edge_index{end}"])


def _by_name(part: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(part.forward).parameters
    return {name: value for name, value in inputs.items() if name in parameters}


def _candidates(part: type[nn.Module]) -> Iterator[Candidate | str]:
    """With all inputs that the part may take, and with those alone that it needs."""
    parameters = inspect.signature(part.forward).parameters
    needed = {name for name, p in parameters.items() if p.default is p.empty} | {"x", "x_dict", "edge_index", "edge_index_dict"}
    for layered in (False, True):
        for sight in _SIGHTS:
            for scarce in (False, True):
                try:
                    torch.manual_seed(0)
                    options = _options(part, sight)
                    inputs = _inputs(part, options, layered=layered)
                    wanted = {name: value for name, value in inputs.items() if not scarce or name in needed}
                    yield Candidate(_Network(part(**options), part(**_options(part, sight)), wanted).train(), (), wanted)
                except Exception as error:
                    yield in_words(error)


def _options(part: type[nn.Module], sight: int) -> dict[str, Any]:
    """The arguments that the constructor needs, those of its base class included where it hands them on."""
    parameters = dict(inspect.signature(part.__init__).parameters)
    if "args" in parameters and (base := part.__mro__[1]) is not nn.Module:
        parameters |= inspect.signature(base.__init__).parameters
    nodes, edges = ["a", "b"], [("a", "to", "b"), ("b", "to", "a")]
    known: dict[str, Any] = {
        **dict.fromkeys(("in_channels", "hidden_channels", "out_channels", "channels", "embedding_dim"), _WIDTH),
        **dict.fromkeys(("hidden_node_channels", "hidden_edge_channels", "dim_emb", "dim_pe_in", "dim_pe_out"), _WIDTH),
        **dict.fromkeys(("int_emb_size", "basis_emb_size", "out_emb_channels"), 4),
        **dict.fromkeys(("num_spherical", "num_radial"), 2),
        **dict.fromkeys(("num_layers", "num_relations", "num_edge_types", "num_node_types", "num_timesteps", "depth"), 2),
        **dict.fromkeys(("kernel_size", "filter_size", "processing_steps", "num_blocks", "num_bilinear", "patch_size"), 2),
        **dict.fromkeys(("edge_dim", "edge_type_emb_dim", "edge_attr_emb_dim"), _EDGE_WIDTH),
        **dict.fromkeys(("space_dimensions", "propagate_dimensions", "num_classes", "k", "K"), 3),
        **_PNA,
        "q": 0.5,
        "heads": 1,
        "dim": 1,
        "alpha": 0.1,
        "first_aggr": True,
        "num_nodes": _NODES,
        "max_num_elements": _NODES,
        "metadata": (nodes, edges),
        "aggr": "mean",
        "scaler": _PNA["scalers"],
        "nn": nn.Linear(sight, _WIDTH),
        "gate_nn": nn.Linear(_WIDTH, 1),
        "mlp_h": nn.Linear(_WIDTH, 3),
        "mlp_f": nn.Linear(_WIDTH + 3, _WIDTH),
        "mlp_g": nn.Linear(_WIDTH, _WIDTH),
        **dict.fromkeys(("conv", "encoder"), geometric.GCNConv(_WIDTH, _WIDTH)),
        "convs": {edge: geometric.SAGEConv(_WIDTH, _WIDTH) for edge in edges},
        "discriminator": nn.Linear(_WIDTH, 1),
        "summary": _mean,
        "corruption": _turned,
    }
    if "edge_attr" in inspect.signature(part.forward).parameters and {"in_channels", "nn"} <= parameters.keys():
        known["nn"] = nn.Linear(1, _WIDTH * _WIDTH)  # makes a matrix of each edge's attributes
    wanted = {name for name, p in parameters.items() if p.default is p.empty} | {"edge_dim"}
    return {name: value for name, value in known.items() if name in wanted and name in parameters} | _OF_CLASS.get(
        part.__name__, {}
    )


def _mean(z: torch.Tensor, *_graph: Any) -> torch.Tensor:
    return z.mean(0)


def _turned(x: torch.Tensor, *graph: Any) -> tuple[Any, ...]:
    return (x.flip(0), *graph)


def _inputs(part: type[nn.Module], options: dict[str, Any], *, layered: bool) -> dict[str, Any]:
    """A value for each input of the forward that has a known name."""
    parameters = inspect.signature(part.forward).parameters
    edges = torch.randint(0, _NODES, (2, 4 * _NODES))
    count = edges.shape[1]
    x = torch.randn(_NODES, _WIDTH)
    graphs = torch.arange(_NODES) * _GRAPHS // _NODES
    if "adj" in parameters:
        x = torch.randn(_GRAPHS, _NODES, _WIDTH)
    elif layered:
        x = torch.randn(_NODES, 2, _WIDTH)
    known = {
        "x": x,
        "x_0": x,
        "xs": [x, x + 1, x - 1],
        "z": torch.randint(1, 9, (_NODES,)) if "pos" in parameters else x,
        "y": torch.randint(0, 3, (_NODES,)),
        "mask": torch.arange(_NODES) % 2 == 0,
        "msg": x,
        "pos_enc": x,
        "adj": (torch.rand(_GRAPHS, _NODES, _NODES) > 0.7).float(),
        "pos": torch.randn(_NODES, 3),
        "normal": nn.functional.normalize(torch.randn(_NODES, 3)),
        **dict.fromkeys(("edge_index", "hyperedge_index", "pos_edge_index"), edges),
        "neg_edge_index": edges.flip(1).roll(1, 0),
        "edge_weight": torch.rand(count),
        "edge_attr": torch.rand(count, options.get("edge_dim") or options.get("dim") or 1),
        "edge_type": torch.randint(0, 2, (count,)),
        "node_type": torch.randint(0, 2, (_NODES,)),
        **dict.fromkeys(("batch", "index"), graphs),
        "x_dict": {"a": x, "b": x + 1},
        "xs_dict": {"a": [x, x + 1], "b": [x, x - 1]},
        "edge_index_dict": {("a", "to", "b"): edges, ("b", "to", "a"): edges.flip(0)},
    }
    _self, first, *_ = parameters.values()
    if first.kind is first.VAR_POSITIONAL:
        end = "_dict" if first.name.endswith("_dict") else ""
        return {name: known[name] for name in (f"x{end}", f"edge_index{end}")}
    return {name: value for name, value in known.items() if name in parameters}
