"""What a node does besides computing its result (draws, communicates, updates state), and who reads the state it updates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from remat_planner.tracer.operators import hidden_updates, is_pure, is_random, written_arguments
from remat_planner.tracer.torch_private import storage_key


def has_effects(node: fx.Node) -> bool:
    """Whether running ``node`` does more than compute its result."""
    func = node.target
    if isinstance(func, torch._ops.OpOverload) and func._schema.is_mutable:
        return True
    return is_random(func, node.args, node.kwargs) or bool(hidden_updates(func, node.args, node.kwargs)) or not is_pure(func)


def updated_placeholders(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Placeholders that the step writes to: by ``copy_``, or by batch normalisation, whose schema does not say so."""
    updated: dict[fx.Node, None] = {}
    for node in nodes:
        if node.op != "call_function":
            continue
        hidden = [node.args[i] for i in hidden_updates(node.target, node.args, node.kwargs) if i < len(node.args)]
        for target in (*written_arguments(node.target, node.args, node.kwargs), *hidden):
            if isinstance(target, fx.Node) and target.op == "placeholder":
                updated[target] = None
    return list(updated)


def readers(node: fx.Node) -> list[fx.Node]:
    """The nodes that read ``node`` or a view of it."""
    storage = storage_key(node.meta["val"])
    reading: dict[fx.Node, None] = {}
    stack = [node]
    while stack:
        for user in stack.pop().users:
            if user in reading:
                continue
            reading[user] = None
            value = user.meta.get("val")
            if isinstance(value, torch.Tensor) and storage_key(value) == storage:
                stack.append(user)
    return list(reading)


def readers_of_old_value(placeholder: fx.Node) -> list[fx.Node]:
    """The ops that would compute something else if they ran again after the update of ``placeholder``.

    The backward of batch normalisation is passed the running statistics, but computes with those of the batch.
    """
    return [
        reader
        for reader in readers(placeholder)
        if reader.op != "output" and "batch_norm_backward" not in getattr(reader.target, "__name__", "")
    ]
