"""The tensors that a forward finds outside of its inputs: each distinct one once, however often it is tied or shared.

Most of them a module registers, as parameters and buffers. Others lie in Python state: plain attributes, lists, globals. From a
capture on these count as buffers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from remat_planner.tracer.python_state import Place
from remat_planner.tracer.torch_sparse import SparseForm, is_sparse, parts_of_sparse


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
class PlaceSlot:
    """Where to find a tensor in Python state.

    Attributes:
        place: where it is.
        ties: where it is, too.
        requires_grad: whether it has the history of an earlier step, or is a parameter that the model has not registered.
        is_parameter: whether it is an ``nn.Parameter``.
    """

    place: Place
    ties: tuple[Place, ...] = ()
    requires_grad: bool = False
    is_parameter: bool = False
    kind: Literal["tensor"] = "tensor"

    @property
    def name(self) -> str:
        """The name of the place, for messages."""
        return self.place.label

    def is_same(self, other: BufferSlot) -> bool:
        """Whether ``other`` is the same place, of this model or of a copy."""
        return (
            isinstance(other, PlaceSlot)
            and len(self.ties) == len(other.ties)
            and all(map(Place.is_same, (self.place, *self.ties), (other.place, *other.ties)))
        )


BufferSlot = StateSlot | PlaceSlot


@dataclass(frozen=True)
class ModuleState:
    """Each distinct parameter and buffer of a model, with its slot; and each tensor in Python state that counts as a buffer.

    Attributes:
        parameters: the parameters.
        parameter_slots: where they are.
        buffers: the buffers, then the tensors in Python state.
        buffer_slots: where they are.
        places: places in Python state with one of these tensors.
        sparse: places with a sparse tensor, its form, and the index in ``buffers`` of the first of its parts.
    """

    parameters: tuple[torch.Tensor, ...]
    parameter_slots: tuple[StateSlot, ...]
    buffers: tuple[torch.Tensor, ...]
    buffer_slots: tuple[BufferSlot, ...]
    places: tuple[tuple[Place, torch.Tensor], ...] = ()
    sparse: tuple[tuple[Place, SparseForm, int], ...] = ()

    @property
    def registered(self) -> tuple[torch.Tensor, ...]:
        """The parameters and buffers that modules register."""
        slots = zip(self.buffers, self.buffer_slots, strict=True)
        return (*self.parameters, *(tensor for tensor, slot in slots if isinstance(slot, StateSlot)))

    @property
    def unregistered(self) -> tuple[torch.Tensor, ...]:
        """The tensors that lie in Python state alone."""
        slots = zip(self.buffers, self.buffer_slots, strict=True)
        return tuple(tensor for tensor, slot in slots if isinstance(slot, PlaceSlot))

    def with_places(self, found: Iterable[tuple[torch.Tensor, tuple[Place, ...]]]) -> ModuleState:
        """This state, with the tensors that are ``found`` in places of Python state; some may be registered too."""
        found = list(found)
        dense = [(tensor, places) for tensor, places in found if not is_sparse(tensor)]
        if len(dense) < len(found):
            sparse = [(tensor, place) for tensor, places in found if is_sparse(tensor) for place in places]
            return self.with_places(dense)._with_sparse(sparse)
        registered = set(map(id, self.registered))
        others = [(tensor, places) for tensor, places in found if id(tensor) not in registered]
        return replace(
            self,
            buffers=(*self.buffers, *(tensor for tensor, _ in others)),
            buffer_slots=(
                *self.buffer_slots,
                *(
                    PlaceSlot(places[0], places[1:], tensor.requires_grad, type(tensor) is nn.Parameter)
                    for tensor, places in others
                ),
            ),
            places=tuple((place, tensor) for tensor, places in found for place in places),
        )

    def _with_sparse(self, found: Iterable[tuple[torch.Tensor, Place]]) -> ModuleState:
        """This state, with the parts of sparse tensors that are ``found`` in places."""
        state = self
        for tensor, place in found:
            form, parts = SparseForm.of(tensor), parts_of_sparse(tensor)
            state = replace(
                state,
                buffers=(*state.buffers, *parts),
                buffer_slots=(*state.buffer_slots, *(PlaceSlot(place.part(form, k)) for k in range(len(parts)))),
                sparse=(*state.sparse, (place, form, len(state.buffers))),
            )
        return state


def state_of(model: nn.Module) -> ModuleState:
    """Walk the modules of ``model`` and list its tensors, each once."""
    names: dict[int, list[str]] = {}
    sparse: list[tuple[torch.Tensor, Place]] = []
    first: dict[int, tuple[torch.Tensor, str, str, Literal["parameter", "buffer"]]] = {}
    registries: tuple[tuple[Literal["parameter", "buffer"], str], ...] = (("parameter", "_parameters"), ("buffer", "_buffers"))
    for path, module in model.named_modules(remove_duplicate=False):
        for kind, registry in registries:
            for key, tensor in getattr(module, registry).items():
                if tensor is not None and is_sparse(tensor):
                    place = Place(path, path, "module").attribute(registry).item(key)
                    sparse.append((tensor, replace(place, label=_full_name(path, key))))
                elif tensor is not None:
                    first.setdefault(id(tensor), (tensor, path, key, kind))
                    names.setdefault(id(tensor), []).append(_full_name(path, key))
    tensors: dict[str, list[torch.Tensor]] = {"parameter": [], "buffer": []}
    slots: dict[str, list[StateSlot]] = {"parameter": [], "buffer": []}
    for identity, (tensor, path, key, kind) in first.items():
        tensors[kind].append(tensor)
        slots[kind].append(StateSlot(path, key, kind, aliases=tuple(dict.fromkeys(names[identity][1:]))))
    state = ModuleState(
        parameters=tuple(tensors["parameter"]),
        parameter_slots=tuple(slots["parameter"]),
        buffers=tuple(tensors["buffer"]),
        buffer_slots=tuple(slots["buffer"]),
    )
    return state._with_sparse(sparse)


def _full_name(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
