"""Finds the blocks that a model repeats, such as the layers of a transformer."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from remat_planner.planner.module_paths import block_and_number
from remat_planner.planner.planning.signatures import state_signature
from remat_planner.tracer.torch_script import scripted

if TYPE_CHECKING:
    from torch import nn


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The outermost numbered modules with a sibling of the same class and form, by full name.

    Frozen modules do not count, nor do scripted ones, which cannot be taken apart.
    """
    blocks: dict[str, nn.Module] = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if scripted(module) is not None or any(name.startswith(f"{outer}.") for outer in blocks) or not name:
            continue
        parent, number = block_and_number(name)
        if number is not None and any(p.requires_grad for p in module.parameters()):
            siblings = modules[parent].children()
            alike = Counter(_form(sibling) for sibling in siblings)
            if alike[_form(module)] > 1:
                blocks[name] = module
    return blocks


def _form(module: nn.Module) -> tuple[type, tuple[tuple[str, str], ...]]:
    return type(module), tuple(state_signature(module).items())
