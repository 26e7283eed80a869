"""Selects the modules that ``regions=`` means: by a pattern of names, by a class, or the repeated blocks.

A pattern that matches no full name matches the ends of names. So it survives wrappers, which put "module." or
"base_model.model." before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from itertools import pairwise

from torch import nn

from remat_planner.planner.errors import RegionError
from remat_planner.planner.module_paths import block_and_number
from remat_planner.planner.planning import repeated_blocks
from remat_planner.planner.regions.parts import has_choices, parts_of

AUTO_REGIONS = "auto"
"""The value of ``regions=`` that means the repeated blocks."""

_MOST_NEAR = 5
"""Names that an error suggests."""

_SIMILARITY = 0.4
"""Least similarity (``difflib``, 0 to 1) of a suggested name; the default of 0.6 misses a pattern with a typo."""


def select_regions(model: nn.Module, wanted: str | type[nn.Module]) -> dict[str, nn.Module]:
    """The modules that ``wanted`` means, by their full names, in the model's order.

    Args:
        model: the model that contains them.
        wanted: a pattern of names whose dotted parts are matched one by one, as file names are ("model.layers.*"), or of the
            ends of names where it matches none in full; a module class or its name; or "auto" for the repeated blocks, or the
            model's own parts where nothing is repeated.

    Raises:
        RegionError: no module is meant, one region lies inside another, or ``wanted`` is something else (a list).
    """
    if wanted == AUTO_REGIONS:
        blocks = {name: block for name, block in repeated_blocks(model).items() if has_choices(block)} or parts_of("", model)
        if not blocks:
            raise RegionError(f"{type(model).__name__} has no modules inside it that could be regions", names=())
        return blocks
    named = {name: module for name, module in model.named_modules() if name}
    if isinstance(wanted, str):
        selected = {n: m for n, m in named.items() if _matches(n, wanted) or type(m).__name__ == wanted}
        selected = selected or _outermost({n: m for n, m in named.items() if _ends_with(n, wanted)})
    elif not isinstance(wanted, type):
        raise RegionError(
            f'regions is a pattern of names ("model.layers.*"), a module class or "auto", not {type(wanted).__name__}: '
            'give one pattern that matches all of them ("*.layers.*")',
            names=(),
        )
    else:
        selected = {n: m for n, m in named.items() if isinstance(m, wanted)}
    if not selected:
        raise _no_such_module_error(model, named, wanted)
    _refuse_overlap(selected)
    return selected


def named_in(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """What ``model`` calls the modules ``names`` of a model that it wraps, or of a wrapper around it; as they are otherwise."""
    names = tuple(names)
    present = {name for name, _ in model.named_modules()}
    first = names[0] if names else ""
    added = [name.removesuffix(first) for name in present if name.endswith(f".{first}")]
    parts = first.split(".")
    removed = [".".join(parts[:k]) + "." for k in range(1, len(parts))]
    renames: list[Callable[[str], str]] = [partial(_with, prefix) for prefix in ("", *sorted(added, key=len))]
    renames += [partial(_without, prefix) for prefix in removed]
    for rename in renames:
        renamed = {name: rename(name) for name in names}
        if present.issuperset(renamed.values()):
            return renamed
    return {name: name for name in names}


def _with(prefix: str, name: str) -> str:
    return prefix + name


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _ends_with(name: str, pattern: str) -> bool:
    end = name.split(".")[-pattern.count(".") - 1 :]
    return _matches(".".join(end), pattern)


def _outermost(named: dict[str, nn.Module]) -> dict[str, nn.Module]:
    return {name: m for name, m in named.items() if not any(name.startswith(f"{outer}.") for outer in named)}


def _no_such_module_error(model: nn.Module, named: dict[str, nn.Module], wanted: str | type[nn.Module]) -> RegionError:
    text = wanted if isinstance(wanted, str) else wanted.__name__
    possible = [*named, *dict.fromkeys(type(module).__name__ for module in named.values())]
    possible += sorted({f"{name.rpartition('.')[0]}.*" for name in named if block_and_number(name)[1] is not None})
    near = tuple(get_close_matches(text, possible, n=_MOST_NEAR, cutoff=_SIMILARITY))
    hint = f"; near it: {', '.join(near)}" if near else ""
    return RegionError(f"no module of {type(model).__name__} has the name or class {text!r}{hint}", names=near)


def _refuse_overlap(names: Iterable[str]) -> None:
    for outer, inner in pairwise(sorted(names, key=lambda name: name.split("."))):
        if inner.startswith(f"{outer}."):
            raise RegionError(
                f"region {inner!r} lies inside of region {outer!r}, and an operator can be in one schedule only: name one",
                names=(outer, inner),
            )
