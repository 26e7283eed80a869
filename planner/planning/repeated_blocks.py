"""TODO: ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from remat_planner.planner.planning.signatures import state_signature


def repeated_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of lists (numbered children) of which at least two have one class and parameters of one form; outermost."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in found) or not name:
            continue
        parent, _, last = name.rpartition(".")
        if last.isdigit() and any(p.requires_grad for p in module.parameters()):
            siblings = model.get_submodule(parent).children()
            alike = Counter(_form(sibling) for sibling in siblings)
            if alike[_form(module)] > 1:
                found[name] = module
    return found


def _form(module: nn.Module) -> tuple[type, tuple[tuple[str, str], ...]]:
    return type(module), tuple(state_signature(module).items())


def merged_names(names: Sequence[str]) -> str:
    """Names in a few words, those that differ in a number together: "h.0-5, head.3"."""
    runs: list[tuple[str, str, str]] = []
    for name in names:
        parent, _, last = name.rpartition(".")
        if last.isdigit() and runs and runs[-1][0] == parent and runs[-1][2].isdigit() and int(runs[-1][2]) + 1 == int(last):
            runs[-1] = (parent, runs[-1][1], last)
        else:
            runs.append((parent, last, last))
    prefixed = ((f"{parent}." if parent else "", first, last) for parent, first, last in runs)
    return ", ".join(f"{prefix}{first}" if first == last else f"{prefix}{first}-{last}" for prefix, first, last in prefixed)
