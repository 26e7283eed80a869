"""Where a Python object is found: from the model, from the arguments of a call, or from an object that lives on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from types import CellType
from typing import Any, Literal
from weakref import CallableProxyType, ProxyType

import torch
from torch import nn

from remat_planner.tracer.torch_sparse import SparseForm, is_sparse, parts_of_sparse

PROXIES = (ProxyType, CallableProxyType)


@dataclass(frozen=True)
class Roots:
    """What places start from: the model by its modules, and the arguments of one call."""

    modules: Mapping[str, nn.Module]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, model: nn.Module, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Roots:
        """Those of ``model(*args, **kwargs)``."""
        return cls(dict(model.named_modules(remove_duplicate=False)), args, kwargs or {})


def tensor_label(tensor: torch.Tensor) -> str:
    """What a tensor is called where it is the key of a dictionary: its values may be many, and may change."""
    return f"tensor {id(tensor):#x}"


Step = tuple[Literal["attribute", "item", "cell", "referent", "part"], Any]
"""Kind and name of what is next; a part is one of the dense tensors that a sparse tensor of this form consists of."""

_REGISTRIES = frozenset((("attribute", "_parameters"), ("attribute", "_buffers"), ("attribute", "_modules")))
"""Where a module registers what is in it, which code finds as its attributes."""


@dataclass(frozen=True)
class Place:
    """A way to an object that holds again for another call, and for a copy of the model.

    Attributes:
        label: the name for messages, as in "layers.0.aux_loss" or "AUX (global of model.py)".
        start: path of a module, "args" or "kwargs", or an object of its own.
        kind: what ``start`` is.
        steps: attributes and items from there on.
    """

    label: str
    start: Any
    kind: Literal["module", "arguments", "object"]
    steps: tuple[Step, ...] = ()

    @property
    def is_module(self) -> bool:
        """Whether a module of the model is here, by its path."""
        return self.kind == "module" and not self.steps

    @property
    def is_registry(self) -> bool:
        """Whether a module registers its parameters, buffers or children here."""
        return bool(self.steps) and self.steps[-1] in _REGISTRIES

    def attribute(self, name: str) -> Place:
        """The attribute ``name`` of what is here."""
        return replace(self, label=f"{self.label}.{name}" if self.label else name, steps=(*self.steps, ("attribute", name)))

    def item(self, key: Any) -> Place:
        """The item ``key`` of what is here."""
        if self.is_registry:
            label = f"{self.label.rpartition('.')[0]}.{key}"
        else:
            label = f"{self.label}[{tensor_label(key) if isinstance(key, torch.Tensor) else repr(key)}]"
        return replace(self, label=label, steps=(*self.steps, ("item", key)))

    def referent(self) -> Place:
        """What the weak reference or context variable that is here leads to."""
        return replace(self, label=f"{self.label}()", steps=(*self.steps, ("referent", None)))

    def part(self, form: SparseForm, number: int) -> Place:
        """Part ``number`` of the sparse tensor of this form that is here."""
        return replace(self, label=f"{self.label}.{form.names[number]}()", steps=(*self.steps, ("part", (form, number))))

    def global_name(self, name: str, file: str, kind: Literal["attribute", "item"]) -> Place:
        """The global ``name`` of the module, or of the namespace of a module, that is here."""
        return replace(self, label=f"{name} (global of {file})", steps=(*self.steps, (kind, name)))

    def is_same(self, other: Place) -> bool:
        """Whether ``other`` leads to the same object, whatever it is."""
        same_start = self.start is other.start if self.kind == "object" else self.start == other.start
        return same_start and self.kind == other.kind and self.steps == other.steps

    def find(self, roots: Roots) -> Any:
        """The object that is here now.

        Raises:
            LookupError: there is none.
        """
        try:
            found = self._start(roots)
            for step in self.steps:
                found = _getter(step)(found)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            raise LookupError(self.label) from error
        return found

    def entry(self, roots: Roots) -> tuple[Any, Any]:
        """A mapping and a key under which the object that is here is found each time, as quickly as can be.

        The mapping raises ``KeyError`` where there is none.
        """
        start = self._start(roots)
        if len(self.steps) == 1:
            kind, key = self.steps[0]
            if kind == "attribute" and key in getattr(start, "__dict__", ()):
                return vars(start), key
            if kind == "item" and isinstance(start, dict):
                return start, key
        return _EntryAt(start, self.steps), None

    def put(self, roots: Roots, value: Any) -> Callable[[], None]:
        """Put ``value`` here, also into a tuple, in whose place another one is put. Returns what undoes it.

        Raises:
            LookupError: there is no such place.
            TypeError: nothing can be put here.
            AttributeError: nothing can be put here.
        """
        before = self.find(roots)
        *steps, step = self.steps
        above = replace(self, steps=tuple(steps))
        holder = above.find(roots)
        if isinstance(holder, tuple):
            items: list[Any] = [value if k == step[1] else item for k, item in enumerate(holder)]
            return above.put(roots, holder._make(items) if hasattr(holder, "_make") else type(holder)(items))
        _set(holder, step, value)
        return lambda: _set(holder, step, before)

    def _start(self, roots: Roots) -> Any:
        if self.kind == "module":
            return roots.modules[self.start]
        if self.kind == "arguments":
            return roots.args if self.start == "args" else roots.kwargs
        return self.start


class _EntryAt:
    """A mapping with one entry, what is some ``steps`` from ``start``. It is looked for each time."""

    def __init__(self, start: Any, steps: tuple[Step, ...]) -> None:
        self._start = start
        self._getters = list(map(_getter, steps))

    def __getitem__(self, _key: None) -> Any:
        found = self._start
        try:
            for get in self._getters:
                found = get(found)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError):
            raise KeyError from None
        return found

    def get(self, key: None) -> Any:
        """The entry, or None."""
        try:
            return self[key]
        except KeyError:
            return None


def _getter(step: Step) -> Callable[[Any], Any]:
    kind, key = step
    if kind == "referent":
        return _referent
    if kind == "part":
        return lambda tensor: _part(tensor, *key)
    return itemgetter(key) if kind == "item" else attrgetter(key if kind == "attribute" else "cell_contents")


def referent_of(reference: Any) -> Any:
    """What a weak reference, a weak proxy or a context variable leads to; None where there is nothing."""
    if isinstance(reference, ContextVar):
        return reference.get(None)
    if type(reference) not in PROXIES:
        return reference()
    try:
        return reference.__reduce_ex__.__self__  # a proxy hands out the methods of its object
    except ReferenceError:
        return None


def _referent(reference: Any) -> Any:
    found = referent_of(reference)
    if found is None:
        raise ValueError("it is not there any more")
    return found


def _part(tensor: torch.Tensor, form: SparseForm, number: int) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor) or not is_sparse(tensor) or tensor.requires_grad or SparseForm.of(tensor) != form:
        raise ValueError("no sparse tensor of this form")
    return parts_of_sparse(tensor)[number]


def _set(holder: Any, step: Step, value: Any) -> None:
    """Without the code that a class of the user's runs for it."""
    kind, key = step
    if isinstance(holder, ContextVar):
        holder.set(value)
    elif kind == "referent":
        raise TypeError("a weak reference cannot be given another object")
    elif isinstance(holder, CellType):
        holder.cell_contents = value
    elif isinstance(holder, dict):
        dict.__setitem__(holder, key, value)
    elif isinstance(holder, list):
        list.__setitem__(holder, key, value)
    elif kind == "item":
        holder[key] = value
    elif isinstance(holder, type):
        type.__setattr__(holder, key, value)
    elif key in getattr(holder, "__dict__", ()):
        vars(holder)[key] = value
    else:
        object.__setattr__(holder, key, value)
