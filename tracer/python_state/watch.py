"""What a forward reads from Python state: described when it is captured, and compared before each planned call.

The comparison runs before every step. It compares identities of entries in bulk and looks closer only where one differs.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import CodeType, FunctionType, MappingProxyType, MethodType
from typing import Any

import torch
from torch import nn

from remat_planner.tracer.python_state.attributes import Attributes, Environment, Function, Namespace, has_data_in_c
from remat_planner.tracer.python_state.executed_code import ExecutedCode, is_users_module
from remat_planner.tracer.python_state.global_names import global_names
from remat_planner.tracer.python_state.holders import Holder, Names, is_plain, plain_form
from remat_planner.tracer.python_state.hooks_on_modules import hook_starts
from remat_planner.tracer.python_state.library_functions import library_functions
from remat_planner.tracer.python_state.places import Place
from remat_planner.tracer.python_state.same_objects import SameObjects
from remat_planner.tracer.python_state.tensor_entries import SeenTensor, version_of
from remat_planner.tracer.python_state.tensor_places import attributes_of_tensors
from remat_planner.tracer.python_state.walk import holder_of, walk
from remat_planner.tracer.torch_nested import JaggedForm, is_jagged

Described = Mapping[str, Mapping[Any, Any]]
Keys = Mapping[str, Collection[Any]]
"""Keys of entries, by the label of the object that holds them."""
_READS_ENVIRONMENT = frozenset({"environ", "getenv"})
_CLASS = "class"
_FEW_CODES = 50
"""Of so many code objects it takes longer to look for what refers to them than to list all objects; by measurement."""
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclass(frozen=True)
class PythonReads:
    """The Python state that a captured forward can read.

    Attributes:
        names: the names that its code uses; None where it may use any.
        outside: objects that it reaches not through the model: globals, functions with variables of their own.
        written: keys that the forward sets itself: what it finds there does not matter.
        inputs: keys of tensors that are inputs of the captured step. Their forms are compared with those of buffers.
        constant: keys of tensors that the captured step has as constants, or whose values decided what it is.
        constants: these tensors, also those that no key leads to, while they are alive, and their versions.
        seen: what the objects held when the forward was captured, by label and key.
    """

    names: Names = field(default=frozenset(), repr=False)
    outside: tuple[tuple[Place, Any], ...] = field(default=(), repr=False)
    written: Keys = field(default_factory=dict)
    inputs: Keys = field(default_factory=dict)
    constant: Keys = field(default_factory=dict)
    constants: tuple[tuple[weakref.ref[torch.Tensor], int], ...] = field(default=(), repr=False)
    seen: Described = field(default_factory=dict, repr=False)

    @classmethod
    def of_code(cls, executed: ExecutedCode, more: frozenset[str] = frozenset()) -> PythonReads:
        """What ``executed`` can read, without what is there now; ``more`` are names besides those that its code has."""
        names = executed.names
        outside = _outside(executed)
        if names is None or not names.isdisjoint(_READS_ENVIRONMENT):
            outside = (*outside, Environment.named(names))
        return cls(None if names is None else names | more, outside)

    def without(self, attributes: Iterable[tuple[str, str]]) -> PythonReads:
        """Without these attributes of modules, each by the path of its module and its name: they may have any value."""
        written, seen = {**self.written}, {**self.seen}
        for path, name in attributes:
            written[path] = frozenset((*written.get(path, ()), name))
            seen[path] = {key: value for key, value in seen.get(path, _NOTHING).items() if key != name}
        return replace(self, written=written, seen=seen)

    def found_in(
        self,
        model: nn.Module,
        written: Keys,
        inputs: Collection[torch.Tensor] = (),
        constants: Collection[torch.Tensor] = (),
        is_constant: Callable[[torch.Tensor], bool] = lambda _: False,
        written_in: Mapping[int, str] = _NOTHING,
    ) -> PythonReads:
        """With what a forward of ``model`` can read now.

        Args:
            model: the model.
            written: keys that the forward sets itself.
            inputs: tensors that are inputs of the captured step.
            constants: other tensors that an operator read.
            is_constant: whether a tensor is one of them, or shares its memory.
            written_in: labels in ``written``, by the identity of the object, which may have another label here: two functions
                may name one variable.
        """
        holders = list(self.holders(model))
        labels = {written_in[id(h.target)]: h.place.label for h in holders if id(h.target) in written_in}
        reads = replace(self, written={labels.get(label, label): keys for label, keys in written.items()})
        identities = set(map(id, inputs))
        reads = replace(
            reads,
            inputs=_tensor_keys(holders, lambda tensor: id(tensor) in identities),
            constant=_tensor_keys(holders, is_constant),
            constants=tuple((weakref.ref(tensor), version_of(tensor)) for tensor in constants),
        )
        return replace(reads, seen=reads.described(holders, registered_in(model)))

    def holders(self, model: nn.Module) -> Iterator[Holder]:
        """The objects that the forward of ``model`` can read, each once."""
        modules = [(Place(path, path, "module"), module) for path, module in model.named_modules()]
        attributes = attributes_of_tensors(model, self.names)
        others = (*hook_starts(model), *self.outside, *library_functions(model, self.names), *attributes)
        return walk([*modules, *others], self.names)

    def argument_state(self, leaf: Any) -> dict[str, dict[Any, Any]] | None:
        """What an object that is an argument holds; None where it holds nothing that can change."""
        return described_value(leaf, self.names) or None

    def described(self, holders: Sequence[Holder], registered: Mapping[int, str]) -> dict[str, dict[Any, Any]]:
        """What ``holders`` hold now, in a form that later contents compare with; ``registered`` as ``registered_in`` says."""
        return described(holders, registered, self.written, self.constant)


class Watch:
    """Tells what has changed of the Python state that a captured forward reads.

    Args:
        reads: the state as it was captured.
        model: the model to watch: the captured one, or a copy.
    """

    def __init__(self, reads: PythonReads, model: nn.Module) -> None:
        self._reads = reads
        self._model = model
        self._seen: Described = reads.seen
        self._constants = [(tensor, version) for ref, version in reads.constants if (tensor := ref()) is not None]
        self._checks: list[Callable[[], bool]] | None = None

    def changed(self) -> tuple[str, ...]:
        """Names of what is not as it was captured; empty where all of it is."""
        if self._checks is not None:
            for check in self._checks:
                if not check():
                    break
            else:
                return ()
        holders, registered = list(self._reads.holders(self._model)), registered_in(self._model)
        changed = differences(self._seen, self._reads.described(holders, registered), holders)
        if not changed and not self._has_constants():
            changed = ("the values of a tensor that the forward reads",)
        if not changed:
            self._bind(holders, registered)
        return changed

    def accept(self) -> None:
        """Take what is there now for what was captured."""
        holders, registered = list(self._reads.holders(self._model)), registered_in(self._model)
        self._seen = self._reads.described(holders, registered)
        self._constants = [(tensor, version_of(tensor)) for tensor, _ in self._constants]
        self._bind(holders, registered)

    def _has_constants(self) -> bool:
        """Whether the tensors that the captured step has as constants have the values that they had."""
        return all(version_of(tensor) == version for tensor, version in self._constants)

    def _bind(self, holders: Iterable[Holder], registered: Mapping[int, str]) -> None:
        named: list[tuple[Mapping[Any, Any], list[Any]]] = []
        ordered: list[Mapping[Any, Any]] = []
        absent: list[tuple[frozenset[str], Mapping[Any, Any]]] = []
        functions: list[FunctionType] = []
        instances: list[Any] = []
        self._checks = [self._has_constants] if self._constants else []
        for holder in holders:
            ignored = self._reads.written.get(holder.place.label, ())
            if constant := self._reads.constant.get(holder.place.label, ()):
                self._checks.append(_has_tensors(holder, constant))
            if tied := [key for key, value in holder.entries().items() if id(value) in registered and key not in ignored]:
                self._checks.append(_has_objects(holder, tied))
            if isinstance(holder, Function):
                functions.append(holder.target)
            if isinstance(holder, Attributes):
                instances.append(holder.target)
            if isinstance(holder, Attributes) and is_users_module(type(holder.target).__module__):
                values = vars(holder.target)
                absent.append((frozenset(name for name in self._reads.names or () if name not in values), values))
            if isinstance(holder, Namespace):
                missing = (name for name in holder.names or () if name not in holder.target and name not in ignored)
                absent.append((frozenset(missing), holder.target))
            if (objects := holder.named_objects(ignored)) is not None:
                compared = self._reads.inputs.get(holder.place.label, ())
                named.append((objects[0], [key for key in objects[1] if key not in compared]))
                ordered += [objects[0]] if holder.is_ordered and len(objects[1]) > 1 else []
            elif (check := holder.check(ignored)) is not None:
                self._checks.append(check)
        self._checks += [
            _same_results(_code_of, functions),
            _same_results(type, instances),
            SameObjects(named, ordered, absent),
        ]


def _tensor_keys(holders: Iterable[Holder], wanted: Callable[[torch.Tensor], bool]) -> Keys:
    """The keys of the tensors that are ``wanted``."""
    keys = {
        holder.place.label: frozenset(k for k, v in holder.entries().items() if isinstance(v, torch.Tensor) and wanted(v))
        for holder in holders
        if holder.has_places
    }
    return {label: found for label, found in keys.items() if found}


def registered_in(model: nn.Module) -> dict[int, str]:
    """The name of each parameter and buffer by the identity of the tensor."""
    return {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def described(
    holders: Sequence[Holder],
    registered: Mapping[int, str] = _NOTHING,
    ignored: Keys = _NOTHING,
    constant: Keys = _NOTHING,
    *,
    of_input: bool = False,
) -> dict[str, dict[Any, Any]]:
    """The entries of each holder: plain values as they are, of tensors the form, and of other objects the kind or the identity.

    Tensors under keys that are ``constant`` are told by identity and by how often they were changed, and ``registered`` ones by
    their name. ``of_input`` is for an argument of a call, whose tensors are inputs, but for those of modules in it: there the
    size that varies of a jagged one does not tell it from others.
    """
    labels = {id(holder.target): holder.place.label for holder in holders}
    found = {}
    for holder in holders:
        label = holder.place.label
        left_out, constants = ignored.get(label, ()), constant.get(label, ())
        in_module = of_input and holder.place.is_registry  # no input: the captured step has them as constants
        found[label] = {
            key: registered.get(id(value))
            or _token(value, labels, is_constant=in_module or key in constants, of_input=of_input)
            for key, value in holder.compared(left_out).items()
        }
        if isinstance(holder, Attributes):
            found[label]["__class__"] = _Same(type(holder.target))
    return found


def described_value(value: Any, names: Names) -> dict[str, dict[Any, Any]]:
    """An object that is an argument of a call, with its class and all that it holds; empty where it holds nothing."""
    found = described(holders_in(value, names), of_input=True)
    return {**found, _CLASS: {"": _Same(type(value))}} if found else {}


def changed_in_value(seen: Described, value: Any, names: Names) -> tuple[str, ...]:
    """Names of the entries of an argument that are not as ``described_value`` has ``seen`` them; "class" for its class."""
    if seen[_CLASS][""] != _Same(type(value)):
        return (_CLASS,)
    holders = holders_in(value, names)
    before = {label: entries for label, entries in seen.items() if label != _CLASS}
    return differences(before, described(holders, of_input=True), holders)


def holders_in(value: Any, names: Names) -> list[Holder]:
    """What holds something in an object that is an argument of a call, the object itself first."""
    return list(walk([(Place("", value, "object"), value)], names))


def differences(before: Described, after: Described, holders: Iterable[Holder]) -> tuple[str, ...]:
    """Names of the entries that are in one description and not, or otherwise, in the other."""
    by_label = {holder.place.label: holder for holder in holders}
    changed: list[str] = []
    for label in dict.fromkeys((*before, *after)):
        one, other = before.get(label), after.get(label)
        if one is None or other is None:
            continue  # the entry that holds it differs, and is named
        holder = by_label[label]
        keys = [k for k in dict.fromkeys((*one, *other)) if k not in one or k not in other or one[k] != other[k]]
        changed += map(holder.name_of, keys)
        if not keys and holder.is_ordered and list(one) != list(other):
            changed.append(f"the order of {label}")
    return tuple(dict.fromkeys(changed))


def _outside(executed: ExecutedCode) -> tuple[tuple[Place, Any], ...]:
    files: dict[int, tuple[dict[str, Any], set[str]]] = {}
    for code, namespace in executed.calls:
        files.setdefault(id(namespace), (namespace, set()))[1].update(global_names(code))
    namespaces = [Namespace.named(namespace, frozenset(names)) for namespace, names in files.values()]
    found: list[tuple[Place, Any]] = [*namespaces]
    if executed.names is None:  # else they are found by the names, whatever holds them
        named = frozenset(name for code, _ in executed.calls for name in code.co_names)
        for namespace, _ in files.values():
            found += [(module.place, module) for module in Namespace.named(namespace, named)[1].modules()]
    codes = {id(code) for code, _ in executed.calls}
    for thing in _functions_with([code for code, _ in executed.calls]):
        if id(thing.__code__) in codes and Function.has_state(thing):
            found.append((Place(f"{thing.__module__}.{thing.__qualname__}", thing, "object"), thing))
    return tuple(found)


def _functions_with(codes: Sequence[CodeType]) -> list[FunctionType]:
    """All functions that have one of these code objects, and perhaps others."""
    # To ask for what refers to a few of them does without a list of all objects, and takes half the time.
    things = gc.get_referrers(*codes) if len(codes) <= _FEW_CODES else gc.get_objects()
    return [thing for thing in things if type(thing) is FunctionType]


def _has_tensors(holder: Holder, keys: Iterable[Any]) -> Callable[[], bool]:
    """A question whether the entries under ``keys`` are the tensors that they are now, unchanged."""
    entries = holder.entries()
    kept = {key: SeenTensor(entries[key], is_constant=True) for key in keys if isinstance(entries.get(key), torch.Tensor)}

    def check() -> bool:
        entries = holder.entries()
        return all(seen.is_still(entries.get(key)) for key, seen in kept.items())

    return check


def _has_objects(holder: Holder, keys: Iterable[Any]) -> Callable[[], bool]:
    """A question whether the entries under ``keys`` are the objects that they are now."""
    entries = holder.entries()
    kept = {key: entries[key] for key in keys}

    def check() -> bool:
        entries = holder.entries()
        return all(entries.get(key) is value for key, value in kept.items())

    return check


def _same_results(question: Callable[[Any], Any], things: Sequence[Any]) -> Callable[[], bool]:
    """Whether ``question`` has the answers that it has now: other code of a function (reloaded), another class of an object."""
    kept = list(map(question, things))
    return lambda: list(map(question, things)) == kept


_code_of = attrgetter("__code__")


class _Same:
    """Equal to what has the same object in it."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return False
        if type(self.thing) is type(other.thing) and isinstance(self.thing, (MethodType, frozenset)):
            return bool(self.thing == other.thing)  # these are made anew each time
        return self.thing is other.thing

    __hash__ = None  # type: ignore[assignment]


def same_thing(thing: Any) -> object:
    """What equals ``same_thing(other)`` where ``other`` is the same object, an equal method or an equal frozen set."""
    return _Same(thing)


def _token(value: Any, labels: Mapping[int, str], *, is_constant: bool, of_input: bool) -> Any:
    if is_plain(value):
        return plain_form(value)
    if of_input and isinstance(value, torch.Tensor) and is_jagged(value):
        return JaggedForm.of(value)
    if isinstance(value, torch.Tensor):
        return SeenTensor(value, is_constant=is_constant)
    if isinstance(value, (FunctionType, type)):
        return _Same(value)  # another function is another function, whatever it holds
    holder = holder_of(Place("", value, "object"), value, None)
    if holder is None or not holder.has_own_description:
        return _Same(value)
    if not of_input and isinstance(holder, Attributes) and has_data_in_c(value):
        return _Same(value)  # what it holds in C is not seen. Of an argument, which is another one in each step, audits tell
    return type(value), labels.get(id(value))  # what it holds is described there, once
