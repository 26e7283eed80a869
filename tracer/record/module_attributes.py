"""The parameters and buffers of a module, and running its forward with others in their place.

Modules are walked once each and every slot that holds a tensor is swapped, also lists of parameters that a module keeps beside
its slots (``nn.LSTM._flat_weights``): tied tensors and shared submodules then need no special case.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.errors import reassigned_error
from remat_planner.tracer.joint import is_plain

_REGISTRIES = ("_parameters", "_buffers", "_modules")
_INTERNALS = frozenset(vars(nn.Module())) - {"training"}
_CONTAINERS = (dict, OrderedDict, list, set)


@dataclass
class SideEffects:
    """What a forward has left in the attributes of modules.

    Attributes:
        reassigned: names of those that held another tensor before, by the id of that one.
        stored: names of those that hold a tensor now.
        values: names of those that held something before, and whose Python value is another now.
        left: what the forward left, by module and key; lists, dictionaries and sets as copies.
    """

    reassigned: dict[int, str] = field(default_factory=dict)
    stored: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    left: list[tuple[nn.Module, str, Any]] = field(default_factory=list)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to tell the user."""
        stored = [f"the forward stores a tensor in attribute {name}; the planned module does not" for name in self.stored]
        changed = [
            f"the forward changes attribute {name}; the planned module takes it as it was when planned" for name in self.values
        ]
        return (*stored, *changed)


@contextmanager
def as_left(effects: SideEffects) -> Iterator[None]:
    """Begin with the attributes as an earlier forward left them, and put everything back afterwards."""
    before = [(vars(module), dict(vars(module))) for module in dict.fromkeys(module for module, _, _ in effects.left)]
    try:
        for module, key, value in effects.left:
            vars(module)[key] = copy.copy(value) if type(value) in _CONTAINERS else value
        yield
    finally:
        for attributes, kept in before:
            attributes.clear()
            attributes.update(kept)


@contextmanager
def swapped(model: nn.Module, replacement: Mapping[int, torch.Tensor]) -> Iterator[SideEffects]:
    """Put ``replacement[id(tensor)]`` into the place of each parameter and buffer, and everything back afterwards.

    Yields what is filled on the way out: the Python attributes that the code inside has changed (they are put back too).

    Raises:
        StateReassignedError: the code inside put another tensor into a slot of a parameter or buffer.
    """
    modules = list(model.named_modules())
    kept = [_Kept(path, module, replacement) for path, module in modules]
    noted = SideEffects()
    try:
        for module in kept:
            module.swap()
        yield noted
        reassigned = [name for module in kept for name in module.reassigned_slots()]
        for module in kept:
            module.note_changes(noted)
    finally:
        for module in kept:
            module.put_back()
    if reassigned:
        raise reassigned_error(reassigned)


class _Kept:
    """What a module holds in its attributes, to swap tensors in it, to see what a forward has changed, and to put it back."""

    def __init__(self, path: str, module: nn.Module, replacement: Mapping[int, torch.Tensor]) -> None:
        self._prefix = f"{path}." if path else ""
        self._module = module
        self._replacement = replacement
        self._attributes = dict(vars(module))
        self._contents = {key: copy.copy(value) for key, value in self._attributes.items() if type(value) in _CONTAINERS}
        self._inside: dict[str, Any] = {}

    def swap(self) -> None:
        """Put the replacements in."""
        registries: tuple[dict[str, Any], ...] = (self._module._parameters, self._module._buffers)
        for slots in registries:
            slots.update({key: self._replacement[id(t)] for key, t in slots.items() if id(t) in self._replacement})
        for key, value in self._attributes.items():
            if key not in _REGISTRIES:
                swap = _replaced(value, self._replacement)
                if swap is not value:
                    self._module.__dict__[key] = swap
        self._inside = dict(vars(self._module))

    def put_back(self) -> None:
        """Make the attributes, and what lists, dictionaries and sets among them hold, what they were."""
        attributes = vars(self._module)
        attributes.clear()
        attributes.update(self._attributes)
        for key, content in self._contents.items():
            container = self._attributes[key]
            if not _same_items(container, content):
                container.clear()
                if isinstance(container, list):
                    container.extend(content)
                else:
                    container.update(content)

    def reassigned_slots(self) -> list[str]:
        """Full names of the parameters and buffers that are no longer the tensors that ``swap`` put there."""
        names = []
        for registry in ("_parameters", "_buffers"):
            held, slots = self._contents[registry], self._attributes[registry]
            for key in dict.fromkeys((*held, *slots)):
                if slots.get(key) is not self._replacement.get(id(held.get(key)), held.get(key)):
                    names.append(f"{self._prefix}{key}")
        return names

    def note_changes(self, noted: SideEffects) -> None:
        """Note the other attributes that are no longer what they were."""
        own = type(self._module).__module__.startswith("torch.nn.")
        for key, value in vars(self._module).items():
            old = self._inside.get(key)
            if key in _INTERNALS or (own and key.startswith("_")) or _same(value, old, self._contents.get(key)):
                continue
            name = f"{self._prefix}{key}"
            noted.left.append((self._module, key, copy.copy(value) if type(value) in _CONTAINERS else value))
            if isinstance(old, torch.Tensor):
                noted.reassigned[id(old)] = name
            if isinstance(value, torch.Tensor):
                noted.stored.append(name)
            elif key in self._inside:
                noted.values.append(name)


def _same(now: Any, then: Any, content: Any) -> bool:
    if now is then:
        return content is None or _same_items(now, content)
    return is_plain(now) and is_plain(then) and now == then


def _same_items(container: Any, content: Any) -> bool:
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        return all(k in content and content[k] is v for k, v in container.items())
    return container == content if isinstance(container, set) else all(a is b for a, b in zip(container, content, strict=True))


def _replaced(value: Any, replacement: Mapping[int, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        return replacement.get(id(value), value)
    if type(value) in (list, tuple):
        items = [_replaced(item, replacement) for item in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if type(value) is dict:
        entries = {k: _replaced(v, replacement) for k, v in value.items()}
        return entries if any(entries[k] is not v for k, v in value.items()) else value
    return value
