"""Which tensors that a first forward leaves for later ones (a cache) would be the same if it were run on another step."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from remat_planner.tracer.operators import is_random, written_arguments
from remat_planner.tracer.record.recording import Recording


def fixed_tensors(recording: Recording) -> frozenset[int]:
    """The identities of the tensors that the forward leaves behind and that depend on constants alone.

    Not on parameters, buffers or inputs, which are others in the next step, nor on random draws.
    """
    varying, node_of = _varying(recording.module.graph), recording.node_of_leaf
    left = enumerate(recording.left_behind, recording.returned)
    return frozenset(id(leaf) for i, leaf in left if isinstance(leaf, torch.Tensor) and node_of.get(i) not in varying)


def _varying(graph: fx.Graph) -> set[Any]:
    varying: set[Any] = {None}
    before = -1
    while len(varying) != before:  # what is written into may be a view of what was computed earlier
        before = len(varying)
        for node in graph.nodes:
            if (
                node.op == "placeholder"
                or is_random(node.target, node.args, node.kwargs)
                or not varying.isdisjoint(node.all_input_nodes)
            ):
                varying.add(node)
                for written in written_arguments(node.target, node.args, node.kwargs):
                    varying.update(_with_sources(written))
    return varying


def _with_sources(node: fx.Node) -> set[fx.Node]:
    """A node and all that it is computed from: it may be a view of any of them."""
    found, waiting = {node}, [node]
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found
