"""Which modules ``regions=`` means: by a pattern of names, by a class, or the repeated blocks."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import pairwise

from torch import nn

from remat_planner.planner.errors import RegionError
from remat_planner.planner.planning import repeated_blocks

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
