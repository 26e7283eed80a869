"""Checks that a call is the captured one: the model's tensors and structure, the inputs, the ambient modes, the guards.

The checks run before every step. So they look only at what determines the captured graph, in the cheapest way, and stop at the
first difference.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from remat_planner.planner.planning.module_structure import ModuleStructure
from remat_planner.planner.planning.state_slots import StateSlots
from remat_planner.tracer.joint import Guards, InputTree, Joint, PlaceSlot, RecordedForward, StateSlot, first_places, plain
from remat_planner.tracer.python_state import (
    HOOK_REGISTRIES,
    ObjectContent,
    Roots,
    Watch,
    attributes_at,
    changed_in_value,
    described_value,
    is_plain,
    plain_form,
)
from remat_planner.tracer.record import Switches, hooks_of, same_hooks
from remat_planner.tracer.torch_private import storage_key
from remat_planner.tracer.torch_script import readable

_MOST_ACCEPTED = 32
"""Different values read that are known to lead to one step; each is compared in every call until one fits."""
_TENSOR_TYPES = (torch.Tensor, nn.Parameter, nn.Buffer)


class _TensorForm(NamedTuple):
    """What determines the kernels that run on a tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    device: torch.device


class Accepted(NamedTuple):
    """What leads to the captured step together: a call in which one of these differs has not been seen to.

    Attributes:
        switches: the settings of torch.
        same_inputs: which inputs are one tensor.
        guards: what the forward reads from buffers and inputs.
        forward: the forward that was recorded with these.
    """

    switches: Switches
    same_inputs: tuple[int, ...]
    guards: Guards
    forward: RecordedForward


class BoundSignature:
    """The signature of a captured step on one model object.

    Args:
        joint: the captured step, of this model or of another one of the same form.
        model: the model on whose tensors the step will run.

    Attributes:
        joint: the captured step.
        model: the model.
    """

    def __init__(self, joint: Joint, model: nn.Module) -> None:
        self.joint = joint
        self.model = model
        modules = dict(model.named_modules(remove_duplicate=False))
        self._structure = ModuleStructure(modules.values())
        self._hooks = [getattr(module, registry) for module in dict.fromkeys(modules.values()) for registry in HOOK_REGISTRIES]
        self._hooks_seen: list[tuple[int, ...]] = []
        self._python_state = Watch(joint.reads, model)
        self._sets_once = any(effect.once for effect in joint.effects.made)
        self._modules = modules
        slots = (*joint.parameters, *joint.buffers)
        places = [_places(slot, modules) for slot in slots]
        nodes = (*joint.parameter_nodes, *joint.buffer_nodes)
        # What lies in a place of Python state may have another form by now.
        self._slots = StateSlots(
            [(owner, key) for (owner, key), *_ in places],
            [
                _example(slot, node.meta["val"]) if isinstance(slot, PlaceSlot) else owner[key]
                for slot, node, ((owner, key), *_) in zip(slots, nodes, places, strict=True)
            ],
        )
        self._in_places = [k for k, slot in enumerate(slots) if isinstance(slot, PlaceSlot)]
        self._written = (
            [k for k in range(len(joint.parameters), len(slots)) if _is_written(nodes[k])] if self._in_places else []
        )
        self._ties = [(*tie, position) for position, (_, *ties) in enumerate(places) for tie in ties]
        self._leaves = joint.constant_leaves
        self._leaf_states = joint.argument_states
        self._objects: dict[int, ObjectContent] = {}
        trained = {gradient.index if gradient.owner == "input" else -1 - gradient.index for gradient in joint.gradients}
        inputs = zip(joint.input_leaves, joint.input_nodes, joint.same_inputs, strict=True)
        self._input_forms = {
            position: _form(node.meta["val"])._replace(requires_grad=first in trained) for position, node, first in inputs
        }
        self._tree = joint.input_tree
        self._accepted = [Accepted(joint.switches, joint.same_inputs, joint.guards, joint.forward)]

    def differing_sizes(self, leaves: Sequence[Any], tree: Any) -> list[tuple[int, int]] | None:
        """Index and dimension of each size of the tensor inputs that is not the captured one; None if more differs."""
        if len(leaves) != len(self._leaves) or tree != self._tree:
            return None
        differing: list[tuple[int, int]] = []
        for index, position in enumerate(self.joint.input_leaves):
            tensor, form = leaves[position], self._input_forms[position]
            if type(tensor) not in _TENSOR_TYPES or tensor.dim() != len(form.shape):
                return None
            if (tensor.dtype, tensor.requires_grad, tensor.device) != (form.dtype, form.requires_grad, form.device):
                return None
            sizes = enumerate(zip(tensor.shape, form.shape, strict=True))
            differing += [(index, dim) for dim, (now, then) in sizes if now != then]
        return differing

    def is_of_model_now(self, autocast: Mapping[str, str], settings: Switches) -> bool:
        """Whether the captured step is the model's now, but for the inputs."""
        is_so = self.state() is not None and autocast == self.joint.autocast and settings == self.joint.switches
        return is_so and not self.changed_python_state()

    def of_sizes(self, joint: Joint, forms: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> BoundSignature:
        """The signature of ``joint``, the same step of the same model for tensor inputs of these shapes and strides."""
        other = copy.copy(self)
        other.joint = joint
        other._accepted = [Accepted(joint.switches, joint.same_inputs, joint.guards, joint.forward)]
        other._leaves = joint.constant_leaves
        other._objects = {}
        other._input_forms = {
            position: self._input_forms[position]._replace(shape=torch.Size(shape), stride=stride)
            for position, (shape, stride) in zip(joint.input_leaves, forms, strict=True)
        }
        return other

    def fits(self, leaves: Sequence[Any], tree: Any, autocast: Mapping[str, str], settings: Switches) -> bool:
        """Whether a call is the captured one."""
        inputs = self.inputs(leaves, tree)
        state = None if inputs is None else self.state()
        if state is None or inputs is None or self.accepted(state, inputs, autocast, settings) is None:
            return False
        return not self.changed_python_state()

    def state(self) -> list[torch.Tensor] | None:
        """The parameters and buffers in the order of the joint graph; None if the model differs from the captured one."""
        return self.tensors() if self.has_captured_hooks() else None

    def tensors(self) -> list[torch.Tensor] | None:
        """As ``state``, whatever hooks the model has."""
        tensors = self._slots.unchanged() if self._structure.is_unchanged() else None
        if tensors is None:
            return None
        for owner, key, position in self._ties:
            if owner.get(key) is not tensors[position]:
                return None
        return tensors if self._are_apart(tensors) else None

    def _are_apart(self, tensors: Sequence[torch.Tensor]) -> bool:
        """Whether no two tensors became one, as tied weights do, and those in Python state share no memory that is changed."""
        if len(set(map(id, tensors))) != len(tensors):
            return False
        if not self._in_places or not self._written:
            return True
        memory = {k: storage_key(tensors[k]) for k in {*self._in_places, *self._written}}
        uses = Counter(memory.values())
        shared = {memory[k] for k in self._in_places if uses[memory[k]] > 1}
        return shared.isdisjoint(memory[k] for k in self._written)

    def roots_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Roots:
        """What the places of Python state start from in this call."""
        return Roots(self._modules, args, kwargs)

    def changed_python_state(self) -> tuple[str, ...]:
        """Names of the Python values that the forward can read and that differ from those of the capture."""
        numbers = self.joint.attributes.items()
        changed = [place for place, number in numbers if not _equal(attributes_at(self.model, place[0]).get(place[1]), number)]
        changed_numbers = tuple(".".join(filter(None, place)) for place in changed)
        return changed_numbers or self._python_state.changed() or self._partly_there()

    def _partly_there(self) -> tuple[str, ...]:
        """Names of entries of which the captured forward sets all or none, where some are there."""
        if not self._sets_once:
            return ()
        leaves = [leaf.constant for leaf in self.joint.outputs[self.joint.returned :]]
        return self.joint.effects.partly_there(self.roots_of((), {}), leaves)

    def changed_places(self) -> tuple[str, ...]:
        """Names of the tensors in Python state that are gone, or have another form than those of the capture."""
        slots = enumerate((*self.joint.parameters, *self.joint.buffers))
        return tuple(slot.name for k, slot in slots if isinstance(slot, PlaceSlot) and self._slots.is_changed(k))

    def has_captured_hooks(self) -> bool:
        """Whether the model has the hooks that the capture saw, or others that do the same."""
        if not self.joint.hooks and not any(self._hooks):
            return True
        keys = [tuple(hooks) for hooks in self._hooks]  # no key is ever given twice
        if keys != self._hooks_seen:
            if not same_hooks(hooks_of(self.model), self.joint.hooks):
                return False
            self._hooks_seen = keys
        return True

    def inputs(self, leaves: Sequence[Any], tree: InputTree) -> list[torch.Tensor] | None:
        """The tensor inputs in the order of the joint graph; None if the inputs have another form than the captured ones."""
        if len(leaves) != len(self._leaves) or (tree is not self._tree and tree != self._tree):
            return None
        self._tree = tree  # most calls come with the same object
        forms, states, names = self._input_forms, self._leaf_states, self.joint.reads.names
        tensors = []
        for position, (leaf, known) in enumerate(zip(leaves, self._leaves, strict=True)):
            form = forms.get(position)
            if form is not None:
                tensor = leaf if type(leaf) in _TENSOR_TYPES else plain(leaf)
                if type(tensor) not in _TENSOR_TYPES or _form(tensor) != form:
                    return None
                tensors.append(tensor)
            elif (held := states[position]) is not None:
                seen = self._objects.get(position)
                if seen is not None and seen.holds(leaf):
                    continue
                if described_value(leaf, names) != held:
                    return None
                with suppress(LookupError):  # then this description is made in each call
                    self._objects[position] = ObjectContent(leaf, names)
            elif leaf is not known and not _equal(leaf, known):
                return None
        return tensors

    def fits_but_for_values(self, leaves: Sequence[Any], tree: InputTree) -> bool:
        """Whether the tensors among the inputs have the captured form; other inputs may have other values."""
        forms = self._input_forms
        return (
            len(leaves) == len(self._leaves)
            and tree == self._tree
            and all(
                isinstance(leaf, torch.Tensor) == (position in forms)
                and (position not in forms or (type(plain(leaf)) in _TENSOR_TYPES and _form(leaf) == forms[position]))
                for position, leaf in enumerate(leaves)
            )
        )

    def changed_inputs(self, leaves: Sequence[Any]) -> list[tuple[int, Any]]:
        """Position and captured value of each input that is no tensor and no object, and has another value now."""
        values = enumerate(zip(leaves, self._leaves, self._leaf_states, strict=True))
        return [
            (position, known)
            for position, (leaf, known, held) in values
            if position not in self._input_forms and held is None and leaf is not known and not _equal(leaf, known)
        ]

    def changed_objects(self, leaves: Sequence[Any]) -> list[tuple[int, tuple[str, ...]]]:
        """Position of each input that is an object with other contents than at capture, and names of what differs in it."""
        names = self.joint.reads.names
        states = enumerate(zip(leaves, self._leaf_states, strict=True))
        found = ((position, changed_in_value(held, leaf, names)) for position, (leaf, held) in states if held is not None)
        return [(position, changed) for position, changed in found if changed]

    def has_same_inputs(self, state: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> bool:
        """Whether the same inputs are one tensor as in the capture, or in another one that led to the same step."""
        return any(self._first_places(state, inputs) == accepted.same_inputs for accepted in self._accepted)

    def _first_places(self, state: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor]) -> tuple[int, ...]:
        # Every call asks. So parameters are looked for only where an input is of their kind.
        buffers = len(self.joint.parameters)
        start = buffers if all(type(tensor) is torch.Tensor for tensor in inputs) else 0
        return first_places(inputs, enumerate(state[start:], start))

    def accepted(
        self, state: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], autocast: Mapping[str, str], switches: Switches
    ) -> Accepted | None:
        """What was seen to lead to the captured step and is so in this call; None where another capture has to tell."""
        if autocast != self.joint.autocast:
            return None
        buffers, places = state[len(self.joint.parameters) :], self._first_places(state, inputs)
        for known in self._accepted:
            if known.switches == switches and known.same_inputs == places and known.guards.hold(buffers, inputs):
                return known
        return None

    def accept(self, joint: Joint) -> None:
        """Take it that what ``joint`` was captured with leads to the captured step too."""
        if self.changed_python_state():
            self._python_state.accept()
            self._accepted.clear()  # with what Python code reads now, these may lead elsewhere
        self._accepted.insert(0, Accepted(joint.switches, joint.same_inputs, joint.guards, joint.forward))
        del self._accepted[_MOST_ACCEPTED:]


def _is_written(node: fx.Node) -> bool:
    """Whether the step changes the buffer of a placeholder: by ``copy_``, or as the statistics of a batch normalization."""
    return any(
        (user.target is torch.ops.aten.copy_.default and user.args[0] is node) or "batch_norm" in str(user.target)
        for user in node.users
    )


def _example(slot: PlaceSlot, value: torch.Tensor) -> torch.Tensor:
    """A fake of the form of what lay in ``slot`` when the step was captured."""
    example = value.detach()
    return nn.Parameter(example, slot.requires_grad) if slot.is_parameter else example.requires_grad_(slot.requires_grad)


def _places(slot: StateSlot | PlaceSlot, modules: Mapping[str, nn.Module]) -> list[tuple[Any, Any]]:
    """A mapping and a key for each place in which the tensor of ``slot`` is."""
    if isinstance(slot, PlaceSlot):
        return [place.entry(Roots(modules)) for place in (slot.place, *slot.ties)]
    return [_slot(modules, name, slot.kind) for name in (slot.name, *slot.aliases)]


def _slot(modules: Mapping[str, nn.Module], name: str, kind: str) -> tuple[Mapping[str, Any], str]:
    path, _, key = name.rpartition(".")
    module = modules[path]
    return readable(module._parameters if kind == "parameter" else module._buffers), key


def _form(tensor: torch.Tensor | None) -> _TensorForm:
    assert tensor is not None
    return _TensorForm(tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad, tensor.device)


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or isinstance(one, torch.Tensor):
        return False
    if is_plain(one):
        return plain_form(one) == plain_form(other)
    try:
        return bool(one == other)
    except Exception:  # objects that cannot be compared count as different
        return False
