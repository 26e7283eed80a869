"""The tensors that a module registers: each distinct parameter and buffer once, however often it is tied or shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True)
class StateSlot:
    """Where to find a parameter or buffer: ``_parameters[key]`` or ``_buffers[key]`` of the module at ``path``.

    A tied tensor has one slot, the first that ``named_modules`` meets; ``aliases`` are its other full names.
    """

    path: str
    key: str
    kind: Literal["parameter", "buffer"]
    aliases: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The full name, as in ``state_dict``."""
        return _full_name(self.path, self.key)


@dataclass(frozen=True)
class ModuleState:
    """Each distinct parameter and buffer of a model, with its slot."""

    parameters: tuple[torch.Tensor, ...]
    parameter_slots: tuple[StateSlot, ...]
    buffers: tuple[torch.Tensor, ...]
    buffer_slots: tuple[StateSlot, ...]


def state_of(model: nn.Module) -> ModuleState:
    """Walk the modules of ``model`` and list its tensors, each once."""
    names: dict[int, list[str]] = {}
    first: dict[int, tuple[torch.Tensor, str, str, Literal["parameter", "buffer"]]] = {}
    registries: tuple[tuple[Literal["parameter", "buffer"], str], ...] = (("parameter", "_parameters"), ("buffer", "_buffers"))
    for path, module in model.named_modules(remove_duplicate=False):
        for kind, registry in registries:
            for key, tensor in getattr(module, registry).items():
                if tensor is not None:
                    first.setdefault(id(tensor), (tensor, path, key, kind))
                    names.setdefault(id(tensor), []).append(_full_name(path, key))
    tensors: dict[str, list[torch.Tensor]] = {"parameter": [], "buffer": []}
    slots: dict[str, list[StateSlot]] = {"parameter": [], "buffer": []}
    for identity, (tensor, path, key, kind) in first.items():
        tensors[kind].append(tensor)
        slots[kind].append(StateSlot(path, key, kind, aliases=tuple(dict.fromkeys(names[identity][1:]))))
    return ModuleState(
        parameters=tuple(tensors["parameter"]),
        parameter_slots=tuple(slots["parameter"]),
        buffers=tuple(tensors["buffer"]),
        buffer_slots=tuple(slots["buffer"]),
    )


def _full_name(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
