"""Finds the blocks that a model repeats, such as the layers of a transformer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import nn

from remat_planner.planner.module_paths import block_and_number, without_numbers
from remat_planner.planner.planning.signatures import state_signature
from remat_planner.tracer.torch_script import scripted


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost numbered modules that have another one of the same class and form beside them, by full name.

    Modules without a forward, such as the lists and dictionaries in a ``ModuleList``, are no blocks; what they contain may
    be.
    """
    modules = dict(model.named_modules())
    numbered = {
        name: module
        for name, module in modules.items()
        if _is_in_list(name, modules) and has_forward(module) and any(True for _ in module.parameters())
    }
    kinds = {name: (without_numbers(name), *_form(module)) for name, module in numbered.items()}
    alike = Counter(kinds.values())
    blocks: dict[str, nn.Module] = {}
    for name, module in numbered.items():
        if alike[kinds[name]] > 1 and not any(name.startswith(f"{outer}.") for outer in blocks):
            blocks[name] = module
    return blocks


def _is_in_list(name: str, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a module is numbered, or one without a forward that is holds it: a ``ModuleDict`` in a ``ModuleList``."""
    if block_and_number(name)[1] is not None:
        return True
    outer = name.rpartition(".")[0]
    return outer in modules and bool(outer) and not has_forward(modules[outer]) and _is_in_list(outer, modules)


def has_forward(module: nn.Module) -> bool:
    """Whether the module has a forward in Python: containers such as ``nn.ModuleList`` have none, scripted ones another."""
    if scripted(module) is not None:
        return False
    return type(module).forward is not nn.Module.forward or "forward" in vars(module)


def _form(module: nn.Module) -> tuple[type, tuple[tuple[str, str], ...]]:
    return type(module), tuple(state_signature(module).items())
