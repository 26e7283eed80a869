"""The regions to plan: the modules that ``regions=`` means, captured where the step calls them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from remat_planner.planner.errors import RegionError
from remat_planner.planner.measurement import KeptState, Loss
from remat_planner.planner.module_paths import merged_names, without_numbers
from remat_planner.planner.planning import state_signature
from remat_planner.planner.regions.capture import CapturedRegion, GradientLayouts
from remat_planner.planner.regions.discover import Discovery, discover
from remat_planner.planner.regions.parts import parts_of
from remat_planner.planner.regions.shared_casts import why_its_casts_are_shared
from remat_planner.tracer.errors import NothingToTrainError

_MOST_DEPTH = 4
"""How deep to look inside blocks that cannot be planned; each level is one more forward."""

_MOST_REASONS = 4
"""How many reasons an error gives; there is one for each kind of block and of its parts."""

_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True)
class WantedRegions:
    """The modules that are to be planned by themselves.

    Attributes:
        blocks: by full name.
        automatic: whether they were found rather than named. Those that cannot be planned are then left out, and the largest
            parts of them that can be planned take their place; where there are none, the largest parts of the model.
        by_chance: whether the step calls other ones from draw to draw.
    """

    blocks: Mapping[str, nn.Module]
    automatic: bool
    by_chance: bool = False


def called_regions(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    wanted: WantedRegions,
    loss: Loss | None = None,
    gradient_layouts: Mapping[str, GradientLayouts] | None = None,
    kept: KeptState | None = None,
) -> tuple[CapturedRegion, ...]:
    """The ``wanted`` regions, captured, but those that have no backward: they retain nothing.

    ``gradient_layouts`` and ``kept`` are those of ``discover``.

    Raises:
        RegionError: no region is left. Unless they were found automatically, also if the step does not call a region in
            training, calls it with inputs of too many forms, or shares the casts of its parameters.
        tracer.CaptureError: a region that was named cannot be captured.
    """
    regions: dict[str, list[CapturedRegion]] = defaultdict(list)
    refused: dict[str, Any] = {}

    def capture_at(blocks: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """Add those that can be planned; returns the parts of the others."""
        discovery = discover(model, args, kwargs, blocks, loss, gradient_layouts, kept)
        like = _left_out_by_chance(discovery, blocks) if wanted.by_chance else {}
        if not wanted.automatic:
            _refuse_unplannable(discovery, like)
        why_not = _why_not(model, discovery, automatic=wanted.automatic)
        for region in (*discovery.regions, *like.values()):
            if region.name not in why_not:
                regions[region.name].append(region)
        refused.update({**discovery.refused, **why_not})
        without_plan = [name for name in blocks if name not in regions and not _retains_nothing(refused.get(name))]
        return {name: part for outer in without_plan for name, part in parts_of(outer, blocks[outer]).items()}

    blocks = wanted.blocks
    for _ in range(_MOST_DEPTH if wanted.automatic else 1):
        blocks = capture_at(blocks) if blocks else {}
    if not regions and wanted.automatic:  # none of the repeated blocks can be planned: a part that repeats nothing may be
        blocks = {name: part for name, part in parts_of("", model).items() if name not in refused}
        for _ in range(_MOST_DEPTH):
            blocks = capture_at(blocks) if blocks else {}
    if not regions:
        raise RegionError(
            f"none of the repeated blocks can be planned: {_reasons(refused)}",
            names=tuple(dict.fromkeys((*wanted.blocks, *refused))),
        )
    return tuple(region for name, _ in model.named_modules() if name in regions for region in regions[name])


def _reasons(refused: Mapping[str, Any]) -> str:
    """Why blocks cannot be planned, each reason once, with the names that it holds for; the most common first.

    Reasons that differ in numbers alone (sizes, lines) are one, in the words of the first block.
    """
    alike: dict[str, list[str]] = {}
    for name, why in refused.items():
        alike.setdefault(_DIGITS.sub("#", str(why)), []).append(name)
    common = sorted(alike.values(), key=len, reverse=True)  # of as many, the first
    said = [f"{merged_names(names)}: {refused[names[0]]}" for names in common[:_MOST_REASONS]]
    left = sum(map(len, common[_MOST_REASONS:]))
    return "; ".join([*said, *([f"and {left:,} more for other reasons"] if left else [])]) or "the step calls none of them"


def _why_not(model: nn.Module, discovery: Discovery, *, automatic: bool) -> dict[str, str]:
    """Why captured regions cannot be planned all the same, by name.

    Raises:
        RegionError: one cannot, and was not found automatically.
    """
    why_not = {}
    for region in discovery.regions:
        why = why_its_casts_are_shared(model, region, discovery.read_outside)
        if why is not None and not automatic:
            raise RegionError(f"region {region.name!r}: {why}", names=(region.name,))
        if why is not None:
            why_not[region.name] = why
    return why_not | (_of_changing_sizes(discovery.regions) if automatic and discovery.sizes_from_values else {})


def _of_changing_sizes(regions: Iterable[CapturedRegion]) -> dict[str, str]:
    """Blocks that are alike and get inputs of other sizes, as experts get other numbers of tokens: by name, why not to plan.

    Where sizes come from values, each step would have others here, and be planned again.
    """
    alike: dict[Any, list[CapturedRegion]] = {}
    for region in regions:
        alike.setdefault(_kind(region.name, region.block), []).append(region)
    return {
        region.name: f"it gets inputs of other sizes ({dict(region.inputs)}) than blocks like it do, which may change with "
        "each step: name it to plan it all the same"
        for group in alike.values()
        if any(region.inputs != group[0].inputs for region in group)
        for region in group
    }


def _left_out_by_chance(discovery: Discovery, blocks: Mapping[str, nn.Module]) -> dict[str, CapturedRegion]:
    """The blocks that random draws have left out of this step and that are like a captured one."""
    captured = {_kind(region.name, region.block): region for region in discovery.regions if not region.form}
    like = {name: captured.get(_kind(name, blocks[name])) for name in discovery.not_called}
    return {name: replace(r, name=name, block=blocks[name], calls=0) for name, r in like.items() if r is not None}


def _kind(name: str, block: nn.Module) -> tuple[Any, ...]:
    return without_numbers(name), type(block), tuple(state_signature(block).items())


def _retains_nothing(why: object) -> bool:
    return isinstance(why, NothingToTrainError)


def _refuse_unplannable(discovery: Discovery, like: Mapping[str, CapturedRegion]) -> None:
    for name, error in discovery.refused.items():
        if discovery.regions and _retains_nothing(error):
            continue
        error.args = (f"region {name!r}: {error}", *error.args[1:])
        raise error
    not_called = tuple(name for name in discovery.not_called if name not in like)
    if not_called:
        raise RegionError(
            f"the step does not call the forward of {', '.join(not_called)} with gradients enabled, so there is "
            "nothing to plan: name regions that it calls, or give inputs with which it does",
            names=not_called,
        )
