"""What has to be put back where a check ends the forward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from remat_planner.tracer.functions import is_check
from remat_planner.tracer.joint import Undo, tensors_of
from remat_planner.tracer.passes.effects import updated_placeholders


def undo_of(graph: fx.Graph, sources: Sequence[fx.Node]) -> Undo | None:
    """What the forward of a graph changes; None where it has no checks. ``sources`` are parameters, buffers and inputs."""
    if not any(map(is_check, graph.nodes)):
        return None
    updated = set(updated_placeholders(graph.nodes))
    draws = [node for node in graph.nodes if node.meta.get("random", False)]
    own = {id(g): g for node in draws if isinstance(g := node.meta.get("generator"), torch.Generator)}
    devices = {tensors_of(node)[0].device for node in draws if "generator" not in node.meta}
    return Undo(tuple(i for i, node in enumerate(sources) if node in updated), tuple(devices), tuple(own.values()))
