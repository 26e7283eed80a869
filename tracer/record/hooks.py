"""Hooks while a step is captured: their work on tensors becomes part of the step, their work in Python is lost.

A hook of a module, or of a tensor in the forward, that only prints or checks would run during the capture and never again, so
it is refused. What a hook of the forward stores in Python state, each planned call stores too. Hooks of parameters are no
concern: autograd runs them in every step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.tracer.joint import Hook
from remat_planner.tracer.python_state import Change, Snapshot, hook_function, hooks_on_modules, same_function
from remat_planner.tracer.record.provenance import user_line
from remat_planner.tracer.refusals import lost_hooks_error, parameter_hook_error

# Index, among the arguments of such a hook, of the value that its result replaces.
_REPLACEABLE = {"_forward_pre_hooks": 1, "_forward_hooks": -1, "_backward_pre_hooks": 1, "_backward_hooks": 1}
# Registries of the options with which such a hook is registered.
_OPTIONS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}


def hooks_of(model: nn.Module) -> tuple[Hook, ...]:
    """The hooks on modules of ``model``, without those that a library installs for itself."""
    modules = dict(model.named_modules())
    return tuple(
        Hook(
            path, registry, hooks[key], tuple(key in getattr(modules[path], options) for options in _OPTIONS.get(registry, ()))
        )
        for path, registry, hooks, key in hooks_on_modules(model)
    )


def same_hooks(one: Sequence[Hook], other: Sequence[Hook]) -> bool:
    """Whether the hooks do the same in the same places; they may have been registered anew in between."""
    return len(one) == len(other) and all(
        (a.path, a.registry, a.options) == (b.path, b.registry, b.options) and same_function(a.function, b.function)
        for a, b in zip(one, other, strict=True)
    )


@contextmanager
def watched_hooks(model: nn.Module, state: Iterable[torch.Tensor] = ()) -> Iterator[WatchedHooks]:
    """Refuse, at the end, hooks that ran inside and changed nothing that the step computes with.

    Args:
        model: the model.
        state: tensors besides buffers that they may change.

    Raises:
        LostHookError: names every such hook.
    """
    buffers = [*model.buffers(), *state]
    hooks_now = WatchedHooks()
    watched: list[_WatchedHook] = []
    replaced: list[tuple[dict[int, Any], int, Any]] = []
    original_register_hook: Any = torch.Tensor.register_hook
    original_post_hook: Any = torch.Tensor.register_post_accumulate_grad_hook

    def refuse_parameter(tensor: torch.Tensor) -> None:
        if any(tensor is parameter for parameter in model.parameters()):
            raise parameter_hook_error(user_line(sys._getframe(2)))

    def register_post_hook(tensor: torch.Tensor, hook: Callable[..., Any]) -> Any:
        refuse_parameter(tensor)
        return original_post_hook(tensor, hook)

    def register_hook(tensor: torch.Tensor, hook: Callable[..., Any]) -> Any:
        if isinstance(hook, _WatchedHook):  # in a function mode torch calls this twice
            return original_register_hook(tensor, hook)
        refuse_parameter(tensor)
        watched.append(_WatchedHook(hook, f"hook of a tensor in {user_line(sys._getframe(1))}", 0, (), hooks_now))
        return original_register_hook(tensor, watched[-1])

    try:
        for path, registry, hooks, key in list(hooks_on_modules(model)):
            kind = registry.strip("_").removesuffix("s").replace("_", " ")
            watched.append(
                _WatchedHook(hooks[key], f"{kind} of {path or 'the model'}", _REPLACEABLE[registry], buffers, hooks_now)
            )
            replaced.append((hooks, key, hooks[key]))
            hooks[key] = watched[-1]
        torch.Tensor.register_hook = register_hook  # type: ignore[method-assign]
        torch.Tensor.register_post_accumulate_grad_hook = register_post_hook  # type: ignore[method-assign]
        yield hooks_now
    finally:
        torch.Tensor.register_hook = original_register_hook  # type: ignore[method-assign]
        torch.Tensor.register_post_accumulate_grad_hook = original_post_hook  # type: ignore[method-assign]
        for hooks, key, hook in replaced:
            if key in hooks:
                hooks[key] = hook
    lost = tuple(hook.name for hook in watched if hook.only_observes)
    if lost:
        raise lost_hooks_error(lost)


class WatchedHooks:
    """The hooks of one recording."""

    def __init__(self) -> None:
        self._left_behind: set[int] | None = None  # identities of the objects that the forward has changed
        self._changed: dict[Any, set[int]] = {}  # the objects that a hook changes, by its code

    def call(self, hook: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What ``hook`` returns. Which objects it changes is noted: another hook of the same code changes the like."""
        code = _code_of(hook)
        if self._left_behind is not None or code in self._changed:
            return hook(*args, **kwargs)
        before = Snapshot.of_function(hook)
        result = hook(*args, **kwargs)
        if changed := {id(change.holder.target) for change in before.changes()}:
            self._changed[code] = changed
        return result

    def forward_is_over(self, changes: Iterable[Change]) -> None:
        """What runs from now on is the backward. The forward has made ``changes``, and each planned call makes them again."""
        self._left_behind = {id(change.holder.target) for change in changes}

    def leaves_behind(self, hook: Callable[..., Any]) -> bool:
        """Whether ``hook`` has changed Python state, and each planned call changes the same."""
        changed = self._changed.get(_code_of(hook))
        return changed is not None and changed <= (self._left_behind or set())


class _WatchedHook:
    """Wraps a hook and sees whether it changes tensors or attributes of its module."""

    def __init__(
        self,
        hook: Callable[..., Any],
        where: str,
        replaceable: int,
        buffers: Sequence[torch.Tensor],
        hooks: WatchedHooks,
    ) -> None:
        self.name = f"{where} ({_name(hook)})"
        self._has_run = False
        self._changes_something = False
        self._hooks = hooks
        self.__wrapped__ = hook
        self._replaceable = replaceable
        self._buffers = buffers

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)  # places lead through a hook to the object that it is bound to

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = args[0] if isinstance(args[0], nn.Module) else None
        tensors = [leaf for leaf in (*pytree.tree_leaves((args, kwargs)), *self._buffers) if isinstance(leaf, torch.Tensor)]
        versions = [tensor._version for tensor in tensors]
        attributes = dict(vars(module)) if module is not None else {}
        result = self._hooks.call(self.__wrapped__, args, kwargs)
        self._has_run = True
        self._changes_something |= (
            (result is not None and not _same_leaves(result, args[self._replaceable]))
            or versions != [tensor._version for tensor in tensors]
            or (module is not None and not _same_values(attributes, vars(module)))
        )
        return result

    @property
    def only_observes(self) -> bool:
        """Whether it has run, and nothing of what it does is part of each planned step."""
        return self._has_run and not self._changes_something and not self._hooks.leaves_behind(self.__wrapped__)


def _same_leaves(one: Any, other: Any) -> bool:
    return list(map(id, pytree.tree_leaves(one))) == list(map(id, pytree.tree_leaves(other)))


def _same_values(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(one[key] is other[key] for key in one)


def _code_of(hook: Any) -> Any:
    function = hook_function(hook)
    return getattr(function, "__code__", function)


def _name(hook: Any) -> str:
    function = hook_function(hook)
    return getattr(function, "__qualname__", type(function).__qualname__)
