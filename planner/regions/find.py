"""Which modules ``regions=`` means: by a pattern of names, by a class, or the repeated blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise

from torch import nn

from planner.errors import RegionError
from planner.step import state_signature

AUTO = "auto"
_NEAR = 5


def find_regions(model: nn.Module, wanted: str | type[nn.Module]) -> dict[str, nn.Module]:
    """The modules that ``wanted`` means, by their full names, in the order in which the model holds them.

    Args:
        model: where to look.
        wanted: a pattern of names, each of whose dotted parts is matched as a file name is ("model.layers.*"), a module class
            or its name, or "auto" for the repeated blocks.

    Raises:
        RegionError: nothing is meant, or one region lies inside another.
    """
    if wanted == AUTO:
        found = repeated_blocks(model)
        if not found:
            raise RegionError(
                f"{type(model).__name__} has no repeated blocks (modules of one class with parameters of one form in a list): "
                'name the regions, regions="encoder.*" or a module class',
                names=(),
            )
        return found
    named = {name: module for name, module in model.named_modules() if name}
    if isinstance(wanted, str):
        found = {n: m for n, m in named.items() if _matches(n, wanted) or type(m).__name__ == wanted}
    else:
        found = {n: m for n, m in named.items() if isinstance(m, wanted)}
    if not found:
        raise _nothing(model, named, wanted)
    _refuse_overlap(found)
    return found


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


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _nothing(model: nn.Module, named: dict[str, nn.Module], wanted: str | type[nn.Module]) -> RegionError:
    text = wanted if isinstance(wanted, str) else wanted.__name__
    possible = [*named, *dict.fromkeys(type(module).__name__ for module in named.values())]
    possible += sorted({f"{name.rpartition('.')[0]}.*" for name in named if name.rpartition(".")[2].isdigit()})
    near = tuple(get_close_matches(text, possible, n=_NEAR, cutoff=0.4))
    hint = f"; near it: {', '.join(near)}" if near else ""
    return RegionError(f"no module of {type(model).__name__} has the name or class {text!r}{hint}", names=near)


def _refuse_overlap(found: dict[str, nn.Module]) -> None:
    for outer, inner in _inside(sorted(found, key=lambda name: name.split("."))):
        raise RegionError(
            f"region {inner!r} lies inside of region {outer!r}: each operator can be planned once. Name the one or the other",
            names=(outer, inner),
        )


def _inside(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(one, other) for one, other in pairwise(names) if other.startswith(f"{one}.")]


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
