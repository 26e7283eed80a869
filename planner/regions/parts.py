"""The modules directly inside a module that can be regions in its place."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from remat_planner.planner.planning import has_forward

_ONE_OPERATOR = "torch.nn.modules."
"""Where the classes are that compute one operator: a region of one operator has nothing to choose."""


def parts_of(name: str, module: nn.Module) -> dict[str, nn.Module]:
    """The parts of ``module``, by full names that begin with its own: its children, or theirs where these are mere lists."""
    return dict(_parts(name, module))


def _parts(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for key, child in module.named_children():
        path = f"{name}.{key}" if name else key
        if not has_forward(child):
            yield from _parts(path, child)
        elif has_choices(child):
            yield path, child


def has_choices(module: nn.Module) -> bool:
    """Whether there may be anything to recompute inside: it computes more than one operator."""
    return any(True for _ in module.children()) or not type(module).__module__.startswith(_ONE_OPERATOR)
