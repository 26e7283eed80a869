"""TODO: ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.joint.graph import StateSlot

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, str, bytes, type(None))


@dataclass(frozen=True)
class State:
    """Each distinct parameter and buffer of a model, with the slot where it is found."""

    parameters: tuple[torch.Tensor, ...]
    parameter_slots: tuple[StateSlot, ...]
    buffers: tuple[torch.Tensor, ...]
    buffer_slots: tuple[StateSlot, ...]


def state_of(model: nn.Module) -> State:
    """Walk the modules of ``model`` and list its tensors, each once."""
    names: dict[int, list[str]] = {}
    first: dict[int, tuple[str, str, str]] = {}
    tensors: dict[int, torch.Tensor] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for kind, slots in (("parameter", module._parameters), ("buffer", module._buffers)):
            for key, tensor in slots.items():
                if tensor is None:
                    continue
                tensors[id(tensor)] = tensor
                first.setdefault(id(tensor), (path, key, kind))
                names.setdefault(id(tensor), []).append(f"{path}.{key}" if path else key)
    found: dict[str, list[tuple[torch.Tensor, StateSlot]]] = {"parameter": [], "buffer": []}
    for identity, (path, key, kind) in first.items():
        slot = StateSlot(path, key, kind, tuple(dict.fromkeys(names[identity][1:])))  # type: ignore[arg-type]
        found[kind].append((tensors[identity], slot))
    return State(
        parameters=tuple(t for t, _ in found["parameter"]),
        parameter_slots=tuple(s for _, s in found["parameter"]),
        buffers=tuple(t for t, _ in found["buffer"]),
        buffer_slots=tuple(s for _, s in found["buffer"]),
    )


def is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(is_plain, value)))


def plain_attributes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The Python values (numbers, strings, tuples of them) that each module holds in attributes, by its full name."""
    held = {
        path: {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE and is_plain(value)}
        for path, module in model.named_modules()
    }
    return {path: values for path, values in held.items() if values}
