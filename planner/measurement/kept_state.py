"""Everything that training steps of a model may change, as it is now: to compare with and to go back to."""

from __future__ import annotations

import copy
import gc
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from remat_planner.planner.measurement.kept_tensors import KeptTensor
from remat_planner.planner.measurement.random_generators import KeptGenerators
from remat_planner.planner.torch_private import runs_hooks
from remat_planner.tracer.joint import tensor_inputs
from remat_planner.tracer.python_state import Change, ExecutedCode, Place, Snapshot, is_plain, starts_of

_CONTAINERS = (dict, OrderedDict, list, set)
_INTERNALS = frozenset(vars(nn.Module())) - {"training"}


class KeptState:
    """The state of a model, of the arguments that it is called with, and of the Python code that it runs.

    | state | ``restart`` | ``put_back`` |
    |---|---|---|
    | parameters, buffers, inputs, tensors in Python state: content, memory, ``requires_grad`` | yes | yes |
    | their gradients | cleared | yes |
    | slots of modules: parameters, buffers, children, hooks | yes | yes |
    | attributes of modules and classes, containers and objects in them, arguments | yes | yes |
    | globals that the code names, variables around functions, once they were ``observed`` | yes | yes |
    | states of random generators | yes | yes |
    | states of optimizers, where hooks of gradients may step them | yes | yes |

    Args:
        model: the model.
        args: positional inputs of its forward.
        kwargs: named inputs of its forward.
        others: further objects with state that a step may change, such as the loss.

    Attributes:
        generators: the random generators.
        steps_in_hooks: whether there are optimizers that may step in hooks of gradients.
        knows_backward: whether code of a backward was ``observed`` too; for the caller to note.
    """

    def __init__(
        self,
        model: nn.Module,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        others: Iterable[Any] = (),
    ) -> None:
        arguments = (tuple(args), dict(kwargs or {}))
        self._modules = [_KeptModule(module) for module in dict.fromkeys(model.modules())]
        self._tensors: dict[int, tuple[str, KeptTensor]] = {}
        self.generators = KeptGenerators()
        self._model = model
        self.knows_backward = False
        self._slots = _in_slots(model)
        for name, tensor in self._slots.items():
            self._add_tensor(name, tensor)
        for k, tensor in enumerate(tensor_inputs(*arguments)):
            self._add_tensor(f"input {k}", tensor)
        named = [(getattr(thing, "__qualname__", type(thing).__qualname__), thing) for thing in others]
        optimizers = list(_stepped_in_hooks(model))
        self.steps_in_hooks = bool(optimizers)
        outside = [(Place(name, thing, "object"), thing) for name, thing in (*named, *optimizers)]
        self._python = Snapshot([*starts_of(model, *arguments), *outside])
        self._looked_through = 0
        self._add_what_objects_hold()

    def observed(self) -> AbstractContextManager[None]:
        """Include, before it runs, what the code that runs inside may read or write: globals, variables around functions."""
        caller = sys._getframe(1)

        def first_call(code: Any, frame: Any) -> None:
            self._python.add_names_of(code, frame, caller)
            self._add_what_objects_hold()

        return ExecutedCode(first_call).observed()

    def include(self, other: KeptState) -> None:
        """Include, as it is now, what ``other`` has come to know of."""
        for holder in other._python.holders:
            self._python.add(holder)
        self._add_what_objects_hold()

    def changed_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors whose content is another one now, by name, and those that are new in the place of another one."""
        yield from ((name, kept.tensor) for name, kept in self._tensors.values() if kept.is_changed)
        for name, tensor in _in_slots(self._model).items():
            if tensor is not self._slots.get(name):
                yield name, tensor

    def changed_flags(self) -> Iterator[tuple[str, bool]]:
        """The tensors that began or ceased to require a gradient, by name."""
        return ((name, kept.tensor.requires_grad) for name, kept in self._tensors.values() if kept.flag_is_changed)

    def gradients_outside(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The gradients of tensors that are no parameters, buffers or inputs, by name."""
        for name, kept in self._tensors.values():
            if name.startswith("state ") and kept.tensor.is_leaf and kept.tensor.grad is not None:
                yield f"gradient of {name}", kept.tensor.grad

    def changed_objects(self) -> list[Change]:
        """The Python objects that hold something else now; arguments are left out, and the registries of hooks in modules."""
        registries = {id(registry) for module in self._modules for registry in module.registries}
        return [
            change
            for change in self._python.changes()
            if change.holder.place.kind != "arguments" and id(change.holder.target) not in registries
        ]

    def identities(self) -> set[int]:
        """The identities of the Python objects that are kept."""
        return {id(holder.target) for holder in self._python.holders}

    def restart(self) -> None:
        """Make everything what it was, and clear gradients."""
        self._put_back_python()
        for _, kept in self._tensors.values():
            kept.restart()

    def put_back(self) -> None:
        """Make everything what it was."""
        self._put_back_python()
        for _, kept in self._tensors.values():
            kept.put_back()

    def _put_back_python(self) -> None:
        for module in self._modules:
            module.put_back()
        self._python.put_back()
        self.generators.put_back()

    def _add_tensor(self, name: str, tensor: torch.Tensor) -> None:
        if id(tensor) not in self._tensors:
            self._tensors[id(tensor)] = name, KeptTensor(tensor)

    def _add_what_objects_hold(self) -> None:
        """Include the tensors and generators in the objects that are new since the last call."""
        holders = self._python.holders
        for holder in holders[self._looked_through :]:
            for key, value in holder.entries().items():
                if isinstance(value, torch.Tensor):
                    self._add_tensor(f"state {holder.name_of(key)}", value)
                elif isinstance(value, torch.Generator):
                    self.generators.add(holder.name_of(key), value)
        self._looked_through = len(holders)


class _KeptModule:
    """The attributes of a module as they are now, among them the slots of its parameters, buffers and children."""

    def __init__(self, module: nn.Module) -> None:
        self._attributes = vars(module)
        self._kept = dict(vars(module))
        self._contents = [(value, copy.copy(value)) for value in self._kept.values() if type(value) in _CONTAINERS]

    @property
    def registries(self) -> list[Any]:
        """Where PyTorch keeps the hooks and slots of the module."""
        return [self._kept[key] for key in _INTERNALS if key in self._kept]

    def put_back(self) -> None:
        if not _same_items(self._attributes, self._kept):
            self._attributes.clear()
            self._attributes.update(self._kept)
        for container, content in self._contents:
            if not _same_items(container, content):
                container.clear()
                container.extend(content) if isinstance(container, list) else container.update(content)


def _in_slots(model: nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers of ``model`` by name."""
    parameters = {f"parameter {name}": p for name, p in model.named_parameters(remove_duplicate=False)}
    return parameters | {f"buffer {name}": buffer for name, buffer in model.named_buffers(remove_duplicate=False)}


def _same_items(one: Any, other: Any) -> bool:
    """Whether two containers hold the same objects, dictionaries under the same keys in the same order."""
    if len(one) != len(other):
        return False
    if isinstance(one, set):
        return bool(one == other)
    pairs: Iterable[tuple[Any, Any]] = zip(one, other, strict=True)
    if isinstance(one, dict):
        return all((a is b or (is_plain(a) and a == b)) and one[a] is other[b] for a, b in pairs)
    return all(a is b for a, b in pairs)


def _stepped_in_hooks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The states, by name, of the optimizers that may step in hooks of the model's gradients."""
    parameters = {id(p) for p in model.parameters()}
    if not any(map(runs_hooks, model.parameters())):
        return
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.optim.Optimizer):
            owned = {id(p) for group in thing.param_groups for p in group["params"]}
            if not owned.isdisjoint(parameters):
                yield f"{type(thing).__qualname__}.state", thing.state
                yield f"{type(thing).__qualname__}.param_groups", thing.param_groups
