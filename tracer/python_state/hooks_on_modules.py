"""Hooks on modules: the forward runs them, so what they hold is Python state that it reads and changes."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from remat_planner.tracer.python_state.places import Place

HOOK_REGISTRIES = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
# Hooks of these packages serve the forward of the same step (recorded outputs, weight norm): the capture loses nothing.
_PARTS_OF_THE_MODEL = frozenset({"torch", "transformers", "diffusers", "peft", "accelerate"})


def hooks_on_modules(model: nn.Module) -> Iterator[tuple[str, str, dict[int, Any], int]]:
    """Path, name of the registry, registry and key of each hook but those that a library installs for itself."""
    for path, module in model.named_modules():
        for registry in HOOK_REGISTRIES:
            hooks = getattr(module, registry)
            yield from ((path, registry, hooks, key) for key, hook in hooks.items() if not _is_part_of_the_model(hook))


def hook_starts(model: nn.Module) -> list[tuple[Place, Any]]:
    """These hooks, with their places. Of one that a recording has wrapped, what is in it."""
    found: list[tuple[Place, Any]] = []
    for path, registry, hooks, key in hooks_on_modules(model):
        place = replace(Place(path, path, "module").attribute(registry).item(key), label=f"a hook of {path or 'the model'}")
        found.append((place, getattr(hooks[key], "__wrapped__", hooks[key])))
    return found


def hook_function(hook: Any) -> Any:
    """The function that a hook calls; itself where it is an object."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return hook


def _is_part_of_the_model(hook: Any) -> bool:
    function = hook_function(getattr(hook, "__wrapped__", hook))
    module = getattr(function, "__module__", None) or type(function).__module__
    return module.partition(".")[0] in _PARTS_OF_THE_MODEL
