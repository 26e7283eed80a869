"""Running a module's forward with other parameters and buffers, and putting its attributes back.

Each module is visited once and every slot that holds a tensor is swapped, also lists of parameters that a module keeps beside
its slots (``nn.LSTM._flat_weights``), so tied tensors and shared submodules need no special case. Other places of Python state
are swapped one by one, in the containers that hold them.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state import Place, Roots
from remat_planner.tracer.refusals import reassigned_error
from remat_planner.tracer.torch_script import script_slots, scripted

_SLOTS = ("_parameters", "_buffers")
_REGISTRIES = (*_SLOTS, "_modules")
_CONTAINERS = (dict, OrderedDict, list, set)


@contextmanager
def swapped(
    model: nn.Module, replacement: Mapping[int, torch.Tensor], places: Iterable[tuple[Place, torch.Tensor]] = ()
) -> Iterator[None]:
    """Put other tensors into the model, and all attributes back at the end.

    Args:
        model: the model.
        replacement: what comes in the place of a parameter or buffer, by the id of that.
        places: further places of Python state, and what comes there.

    Raises:
        StateReassignedError: the code inside put another tensor into the slot of a parameter or buffer.
    """
    snapshots = [
        (_ModuleSnapshot if scripted(module) is None else _ScriptSnapshot)(path, module, replacement)
        for path, module in model.named_modules()
    ]
    try:
        for snapshot in snapshots:
            snapshot.swap()
        with ExitStack() as put_back:
            roots = Roots.of(model)
            for place, tensor in places:
                put_back.callback(place.put(roots, tensor))
            yield
        reassigned = [name for snapshot in snapshots for name in snapshot.reassigned_slots()]
    finally:
        for snapshot in snapshots:
            snapshot.put_back()
    if reassigned:
        raise reassigned_error(reassigned)


class _ModuleSnapshot:
    """The attributes of a module before a forward: to swap their tensors, and to put back."""

    def __init__(self, path: str, module: nn.Module, replacement: Mapping[int, torch.Tensor]) -> None:
        self._prefix = f"{path}." if path else ""
        self._module = module
        self._replacement = replacement
        self._attributes = dict(vars(module))
        self._contents = {key: copy.copy(value) for key, value in self._attributes.items() if type(value) in _CONTAINERS}

    def swap(self) -> None:
        """Put the replacements in."""
        slots_of_tensors: tuple[dict[str, Any], ...] = (self._module._parameters, self._module._buffers)
        for slots in slots_of_tensors:
            slots.update({key: self._replacement[id(t)] for key, t in slots.items() if id(t) in self._replacement})
        for key, value in self._attributes.items():
            if key not in _REGISTRIES:
                swap = _replaced(value, self._replacement)
                if swap is not value:
                    self._module.__dict__[key] = swap

    def put_back(self) -> None:
        """Restore the attributes, and the contents of lists, dictionaries and sets among them."""
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
        for registry in _SLOTS:
            before, now = self._contents[registry], self._attributes[registry]
            for key in dict.fromkeys((*before, *now)):
                if now.get(key) is not self._replacement.get(id(before.get(key)), before.get(key)):
                    names.append(f"{self._prefix}{key}")
        return names


class _ScriptSnapshot:
    """The parameters and buffers of one scripted module, without those of the modules in it."""

    def __init__(self, path: str, module: nn.Module, replacement: Mapping[int, torch.Tensor]) -> None:
        self._path = path
        self._owner: Any = scripted(module)
        self._slots = list(script_slots(self._owner, deep=False))
        self._swapped = [replacement.get(id(tensor), tensor) for tensor, _ in self._slots]

    def swap(self) -> None:
        """Put the replacements in."""
        for (_, put), tensor in zip(self._slots, self._swapped, strict=True):
            put(tensor)

    def put_back(self) -> None:
        """Put the tensors back."""
        for tensor, put in self._slots:
            put(tensor)

    def reassigned_slots(self) -> list[str]:
        """The module's path, where another tensor than ``swap`` put there is in one of its slots."""
        now = script_slots(self._owner, deep=False)
        same = all(tensor is swapped for (tensor, _), swapped in zip(now, self._swapped, strict=True))
        return [] if same else [self._path]


def _same_items(container: Any, content: Any) -> bool:
    if len(container) != len(content):
        return False
    if isinstance(container, dict):
        return all(k in content and content[k] is v for k, v in container.items())
    return container == content if isinstance(container, set) else all(a is b for a, b in zip(container, content, strict=True))


def _replaced(value: Any, replacement: Mapping[int, torch.Tensor]) -> Any:
    """``value`` with its tensors replaced, also inside lists, tuples and dictionaries; ``value`` itself where it has none."""
    if isinstance(value, torch.Tensor):
        return replacement.get(id(value), value)
    if type(value) in (list, tuple):
        items = [_replaced(item, replacement) for item in value]
        return type(value)(items) if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if type(value) is dict:
        entries = {k: _replaced(v, replacement) for k, v in value.items()}
        return entries if any(entries[k] is not v for k, v in value.items()) else value
    return value
