"""Objects whose entries are attributes, and functions with the variables around them."""

from __future__ import annotations

import os
import struct
import types
import typing
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from functools import cache
from typing import Any, Literal

from torch import nn

from remat_planner.tracer.python_state.executed_code import is_installed, is_users_module
from remat_planner.tracer.python_state.holders import Holder, Names
from remat_planner.tracer.python_state.hooks_on_modules import HOOK_REGISTRIES
from remat_planner.tracer.python_state.places import Place

_MODULE_INTERNALS = frozenset(vars(nn.Module())) - {"training"}
_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules", *HOOK_REGISTRIES})


class Attributes(Holder):
    """An instance with a ``__dict__``. Class attributes that an instance could hide count as absent."""

    has_names = True

    def entries(self) -> dict[Any, Any]:
        values = vars(self.target)
        return {key: values[key] for key in self.wanted(values)}

    def place_of(self, key: Any) -> Place:
        return self.place.attribute(key)

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:
        return vars(self.target), [key for key in self.wanted(vars(self.target)) if key not in ignored]

    def put_back(self, entries: dict[Any, Any]) -> None:
        values = vars(self.target)
        for key in [key for key in self.wanted(values) if key not in entries]:
            del values[key]
        values.update(entries)


class ThreadLocal(Attributes):
    """A ``threading.local``: what the current thread has in it."""

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:  # noqa: ARG002
        return None  # each thread has a dictionary of its own


class ModuleAttributes(Attributes):
    """A module of the model; its parameters, buffers and children are looked after elsewhere."""

    def wanted(self, keys: Iterable[Any]) -> list[Any]:
        return [key for key in keys if self._is_wanted(key)]

    def _is_wanted(self, key: str) -> bool:
        if key in HOOK_REGISTRIES:  # a forward may install some; those that are there are compared before each call
            return self.names is None
        if key == "forward":
            # The view of a planned region has its forward in its class, and its dictionary holds the plan.
            return not isinstance(getattr(type(self.target), "forward", None), property)
        if key in _MODULE_INTERNALS:
            return False
        if not is_users_module(type(self.target).__module__):
            return not key.startswith("_")
        return self.names is None or key in self.names

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:
        values, keys = vars(self.target), self.wanted(vars(self.target))
        # The mode of each module is compared before each call in any case, with its tensors.
        return values, [key for key in keys if key not in ignored and key != "training"]


class UnregisteredModule(ModuleAttributes):
    """A module that is none of the model's: in a list, a global, around a function.

    What it registers is state like other: nobody else looks after its parameters, buffers, children, hooks and mode.
    """

    def _is_wanted(self, key: str) -> bool:
        return key in _REGISTRIES or super()._is_wanted(key)

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:
        return Attributes.named_objects(self, ignored)


class Slots(Holder):
    """An instance whose class declares ``__slots__``."""

    has_names = True

    def entries(self) -> dict[Any, Any]:
        return {key: getattr(self.target, key) for key in self.wanted(slots_of(type(self.target))) if hasattr(self.target, key)}

    def place_of(self, key: Any) -> Place:
        return self.place.attribute(key)

    def put_back(self, entries: dict[Any, Any]) -> None:
        for key in self.entries().keys() - entries.keys():
            object.__delattr__(self.target, key)
        for key, value in entries.items():
            object.__setattr__(self.target, key, value)


class AttributesAndSlots(Attributes):
    """An instance with a ``__dict__`` whose class, or a base of it, declares ``__slots__`` too."""

    def entries(self) -> dict[Any, Any]:
        return super().entries() | self._in_slots()

    def _in_slots(self) -> dict[str, Any]:
        return Slots(self.place, self.target, self.names).entries()

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:  # noqa: ARG002
        return None  # no one mapping has them all

    def put_back(self, entries: dict[Any, Any]) -> None:
        slots = frozenset(slots_of(type(self.target)))
        super().put_back({key: value for key, value in entries.items() if key not in slots})
        Slots(self.place, self.target, self.names).put_back({key: entries[key] for key in slots if key in entries})


class Namespace(Holder):
    """The globals of a file, as far as its code names them."""

    has_names = True

    def __init__(
        self, place: Place, target: dict[str, Any], names: Names, file: str = "?", kind: Literal["attribute", "item"] = "item"
    ) -> None:
        super().__init__(place, target, names)
        self.file = file
        self.kind: Literal["attribute", "item"] = kind  # what the names are of the object at the place
        self.is_of_package = is_installed(str(target.get("__file__", "")))

    @classmethod
    def named(cls, namespace: dict[str, Any], names: Names) -> tuple[Place, Namespace]:
        """The place and the holder of a file's globals."""
        file = str(namespace.get("__name__", "?"))
        place = Place(file, namespace, "object")
        return place, cls(place, namespace, names, file)

    def entries(self) -> dict[Any, Any]:
        names = self.target if self.names is None else self.names
        return {name: self.target[name] for name in names if name in self.target and not name.startswith("__")}

    def place_of(self, key: Any) -> Place:
        return self.place.global_name(key, self.file, self.kind)

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:
        return self.target, [key for key in self.entries() if key not in ignored]

    def modules(self) -> Iterator[Namespace]:
        """The user's own modules that are in it, and in these, with the attributes of the same names."""
        found, seen = [self], {id(self.target)}
        for outer in found:
            for name, value in outer.entries().items():
                if type(value) is types.ModuleType and is_users_module(value.__name__) and id(vars(value)) not in seen:
                    seen.add(id(vars(value)))
                    inner = Namespace(outer.place_of(name), vars(value), self.names, value.__name__, "attribute")
                    if not inner.is_of_package:
                        found.append(inner)
                        yield inner

    def put_back(self, entries: dict[Any, Any]) -> None:
        for name in [name for name in self.entries() if name not in entries]:
            del self.target[name]
        self.target.update(entries)


class Environment(Holder):
    """The environment variables that the forward's code can name."""

    has_places = False
    has_names = True

    @classmethod
    def named(cls, names: Names) -> tuple[Place, Environment]:
        """Its place, and the holder for code that uses ``names``."""
        place = Place("os.environ", os.environ, "object")
        return place, cls(place, os.environ, names)

    def entries(self) -> dict[Any, Any]:
        return {key: self.target[key] for key in self.wanted(self.target)}

    def name_of(self, key: Any) -> str:
        return f"{self.place.label}[{key!r}]"

    def place_of(self, key: Any) -> Place:  # noqa: ARG002 - a variable is no object of its own
        return self.place

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:  # noqa: ARG002
        variables = self.target._data  # os.environ would decode each, and a name that is not there yet may come
        kept = dict(variables)
        return lambda: variables == kept

    def put_back(self, entries: dict[Any, Any]) -> None:
        for key in [key for key in self.wanted(self.target) if key not in entries]:
            del self.target[key]
        self.target.update(entries)


class ClassAttributes(Holder):
    """A class of the user's: methods, constants."""

    has_names = True

    def entries(self) -> dict[Any, Any]:
        return {key: value for key, value in vars(self.target).items() if self._is_read(key, value)}

    def _is_read(self, key: str, value: Any) -> bool:
        if key.startswith("__"):  # methods that code calls without naming them
            return isinstance(value, types.FunctionType)
        return key == "forward" or self.names is None or key in self.names

    def place_of(self, key: Any) -> Place:
        return self.place.attribute(key)

    def named_objects(self, ignored: Container[Any]) -> tuple[typing.Mapping[Any, Any], list[Any]] | None:
        return vars(self.target), [key for key in self.entries() if key not in ignored]

    def put_back(self, entries: dict[Any, Any]) -> None:
        for key in self.entries().keys() - entries.keys():
            type.__delattr__(self.target, key)
        for key, value in entries.items():
            if vars(self.target).get(key) is not value:
                type.__setattr__(self.target, key, value)


class Function(Holder):
    """A Python function of the user's: its variables from around it, its defaults and attributes."""

    has_own_description = False

    @staticmethod
    def has_state(function: types.FunctionType) -> bool:
        """Whether there is anything in it that can change."""
        return bool(function.__closure__ or function.__defaults__ or function.__kwdefaults__ or vars(function))

    def entries(self) -> dict[Any, Any]:
        function = self.target
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        found = {("variable", name): cell.cell_contents for name, cell in cells if _is_filled(cell)}
        found |= {("default", k): value for k, value in enumerate(function.__defaults__ or ())}
        found |= {("default", name): value for name, value in (function.__kwdefaults__ or {}).items()}
        found["code", ""] = function.__code__
        return found | {("attribute", key): value for key, value in vars(function).items()}

    def place_of(self, key: Any) -> Place:
        kind, name = key
        if kind in ("attribute", "code"):
            return self.place.attribute(name or "__code__")
        label = f"{name} ({kind} of {self.target.__qualname__})"
        if kind == "variable":
            cell = self.target.__closure__[self.target.__code__.co_freevars.index(name)]
            return Place(label, cell, "object", (("cell", None),))
        holder = "__defaults__" if isinstance(name, int) else "__kwdefaults__"
        return Place(label, self.target, "object", (("attribute", holder), ("item", name)))

    def check(self, ignored: Collection[Any] = ()) -> Callable[[], bool] | None:
        # Decorators of libraries fill their variables once; what these hold is looked at for itself.
        installed = is_installed(self.target.__code__.co_filename)
        return None if installed or not self.has_state(self.target) else super().check(ignored)

    def put_back(self, entries: dict[Any, Any]) -> None:
        function = self.target
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            if ("variable", name) in entries:
                cell.cell_contents = entries["variable", name]
        attributes = {name: value for (kind, name), value in entries.items() if kind == "attribute"}
        vars(function).clear()
        vars(function).update(attributes)


def has_data_in_c(thing: Any) -> bool:
    """Whether ``thing`` has memory besides its attributes and slots: its class, or a base of it, is written in C."""
    kind: Any = type(thing)
    return _has_data_in_c(kind)


@cache
def _has_data_in_c(kind: Any) -> bool:
    own = kind.__basicsize__ - object.__basicsize__ - _POINTER * len(slots_of(kind))
    # A negative offset is one before the object, which does not count in its size.
    return bool(own > _POINTER * ((kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)) or kind.__itemsize__ > 0)


_POINTER = struct.calcsize("P")


def slots_of(kind: type) -> list[str]:
    """The names that ``kind`` and its bases declare in ``__slots__``."""
    declared = [vars(base).get("__slots__", ()) for base in kind.__mro__]
    names = [name for names in declared for name in ((names,) if isinstance(names, str) else names)]
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - it raises where the cell is empty
    except ValueError:
        return False
    return True


def attributes_at(model: nn.Module, path: str) -> dict[str, Any]:
    """The attributes of the module, or of the object, at a path as in "layers.0.config"; empty where nothing is there."""
    owner: Any = model
    for name in path.split(".") if path else ():
        inner = owner._modules.get(name) if isinstance(owner, nn.Module) else None
        owner = getattr(owner, "__dict__", {}).get(name) if inner is None else inner
    return getattr(owner, "__dict__", {})
