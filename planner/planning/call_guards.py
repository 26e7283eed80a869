"""Whether a call still is the one that was captured: the model's tensors and structure, the inputs, the ambient modes, the
guards.

This runs before every step, so it asks only for what decides the captured graph, in the cheapest way, and stops at the
first difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from remat_planner.tracer.joint import Joint
from remat_planner.tracer.record import REGISTRIES, hooks_of

_TENSOR_TYPES = (torch.Tensor, nn.Parameter, nn.Buffer)


class _Form(NamedTuple):
    """What decides the kernels that run on a tensor."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool
    device: torch.device


class BoundSignature:
    """The signature of a captured step on one model object.

    Args:
        joint: the captured step; of this model or of one of the same form.
        model: the model whose tensors the step will run on.
    """

    def __init__(self, joint: Joint, model: nn.Module) -> None:
        self.joint = joint
        self._model = model
        modules = dict(model.named_modules(remove_duplicate=False))
        self._children = [
            (parent._modules, key, child)
            for parent in dict.fromkeys(modules.values())
            for key, child in parent._modules.items()
        ]
        self._modes = [(module, module.training) for module in dict.fromkeys(modules.values())]
        self._hooks = [getattr(module, registry) for module in dict.fromkeys(modules.values()) for registry in REGISTRIES]
        self._hooks_seen: list[tuple[int, ...]] = [()] * len(self._hooks)
        self._attributes = [
            (vars(modules[path]), path, tuple(values), tuple(values.values())) for path, values in joint.attributes.items()
        ]
        slots = (*joint.parameters, *joint.buffers)
        self._slots = [_slot(modules, slot.name, slot.kind) for slot in slots]
        self._ties = [
            (*_slot(modules, alias, slot.kind), position) for position, slot in enumerate(slots) for alias in slot.aliases
        ]
        self._forms = [_form(owner[key]) for owner, key in self._slots]
        self._kinds = [type(owner[key]) for owner, key in self._slots]
        self._leaves = joint.constant_leaves
        trained = {gradient.index for gradient in joint.gradients if gradient.owner == "input"}
        self._input_forms = {
            position: _form(node.meta["val"])._replace(requires_grad=k in trained)
            for k, (position, node) in enumerate(zip(joint.input_leaves, joint.input_nodes, strict=True))
        }
        self._spec = joint.input_spec

    def state(self) -> list[torch.Tensor] | None:
        """The parameters and buffers in the order of the joint graph; None where the model is not the captured one any
        more.
        """
        for modules, key, child in self._children:
            if modules.get(key) is not child:
                return None
        for module, mode in self._modes:
            if module.training is not mode:
                return None
        if not self._same_hooks():
            return None
        tensors = [owner.get(key) for owner, key in self._slots]
        # Written out, as this loop is most of what a planned call costs beside its kernels.
        forms = zip(tensors, self._kinds, self._forms, strict=True)
        for tensor, kind, (shape, stride, dtype, requires_grad, device) in forms:
            if (
                tensor is None
                or type(tensor) is not kind  # a DTensor has the shape of the whole
                or tensor.requires_grad is not requires_grad
                or tensor.dtype is not dtype
                or tensor.shape != shape
                or tensor.stride() != stride
                or tensor.device != device
            ):
                return None
        for owner, key, position in self._ties:
            if owner.get(key) is not tensors[position]:
                return None
        return tensors  # type: ignore[return-value]

    def changed_attributes(self) -> tuple[str, ...]:
        """Full names of the Python values in modules' attributes that are not those of the capture."""
        changed = []
        for attributes, path, keys, values in self._attributes:
            if tuple(map(attributes.get, keys)) != values:
                prefix = f"{path}." if path else ""
                pairs = zip(keys, values, strict=True)
                changed += [f"{prefix}{key}" for key, value in pairs if attributes.get(key) != value]
        return tuple(changed)

    def accept_attributes(self) -> None:
        """Take the Python values in modules' attributes that are there now as those of the capture."""
        self._attributes = [
            (attributes, path, keys, tuple(map(attributes.get, keys))) for attributes, path, keys, _ in self._attributes
        ]

    def _same_hooks(self) -> bool:
        """Whether the hooks that the capture saw are there, and no others."""
        if not self.joint.hooks and not any(self._hooks):
            return True
        keys = [tuple(hooks) for hooks in self._hooks]
        if keys != self._hooks_seen:
            if hooks_of(self._model) != self.joint.hooks:
                return False
            self._hooks_seen = keys
        return True

    def inputs(self, leaves: Sequence[Any], spec: Any) -> list[torch.Tensor] | None:
        """The tensor inputs in the order of the joint graph; None where the inputs are not of the captured form."""
        if len(leaves) != len(self._leaves) or spec != self._spec:
            return None
        forms = self._input_forms
        for position, (leaf, known) in enumerate(zip(leaves, self._leaves, strict=True)):
            form = forms.get(position)
            if form is not None:
                if type(leaf) not in _TENSOR_TYPES or _form(leaf) != form:
                    return None
            elif leaf is not known and not _equal(leaf, known):
                return None
        return [leaves[position] for position in self.joint.input_leaves]

    def holds(self, state: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], autocast: Mapping[str, str]) -> bool:
        """Whether the ambient autocast and the numbers that the capture took as given are the same."""
        if autocast != self.joint.autocast:
            return False
        buffers = state[len(self.joint.parameters) :]
        return all(guard.evaluate(buffers, inputs) == guard.expected for guard in self.joint.guards)


def _slot(modules: Mapping[str, nn.Module], name: str, kind: str) -> tuple[dict[str, torch.Tensor | None], str]:
    path, _, key = name.rpartition(".")
    module = modules[path]
    tensors: dict[str, Any] = module._parameters if kind == "parameter" else module._buffers
    return tensors, key


def _form(tensor: torch.Tensor | None) -> _Form:
    assert tensor is not None
    return _Form(tensor.shape, tensor.stride(), tensor.dtype, tensor.requires_grad, tensor.device)


def _equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or isinstance(one, torch.Tensor):
        return False
    try:
        return bool(one == other)
    except Exception:  # an object that cannot be compared is another one
        return False
