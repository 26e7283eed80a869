"""The modules to wrap with ``torch.utils.checkpoint``: whole blocks, or one part of each, as many as the budget needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from remat_planner.planner.exports.blocks import blocks_of, left_out, nothing_to_checkpoint, obstacle, parts_of
from remat_planner.planner.exports.result import Export, Request, Trial, answer, best, least_that_fits

FORM = "modules"

_CODE = '''from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

MODULES = {names}


def wrap(model):
    """Checkpoint the modules, in place."""
    chosen = {{id(model.get_submodule(name)) for name in MODULES}}
    apply_activation_checkpointing(model, check_fn=lambda module: id(module) in chosen)
'''


def export_modules(request: Request) -> Export:
    """The cheapest choice of modules that fits.

    Raises:
        ExportError: no module can be checkpointed.
    """
    blocks = blocks_of(request, FORM)
    obstacles = {name: obstacle(request, name) for names in parts_of(request.model, blocks).values() for name in names}
    chosen = best(trials_of_modules(request, blocks, obstacles), request.budget)
    if not chosen.setting["modules"] and chosen.cost.peak_bytes > request.budget:
        raise nothing_to_checkpoint(obstacles, blocks, FORM)
    return answer(request, FORM, chosen, _code(chosen.setting["modules"]), left_out(obstacles, blocks))


def trials_of_modules(request: Request, blocks: Sequence[str], obstacles: Mapping[str, str | None]) -> list[Trial]:
    """No module; the first q blocks, or one part of the first q blocks; that part of all and the first q blocks whole.

    ``obstacles`` says why a block or part cannot be wrapped, by path.
    """
    parts = {
        relative: able
        for relative, names in parts_of(request.model, blocks).items()
        if (able := [name for name in names if obstacles[name] is None and request.step.recomputes(name)])
    }

    def wrapping(names: Sequence[str]) -> Trial:
        return Trial({"modules": list(names)}, request.step.cost([request.step.region(name) for name in names]))

    def wrapping_whole(q: int, names: Sequence[str]) -> Trial:
        inside = tuple(f"{block}." for block in parts[""][:q])
        return wrapping([*parts[""][:q], *(name for name in names if not name.startswith(inside))])

    trials = [wrapping(())]
    if trials[0].cost.peak_bytes <= request.budget:
        return trials
    for relative, names in parts.items():
        first_q = least_that_fits(len(names), lambda q, names=names: wrapping(names[:q]), request.budget)  # type: ignore[misc]
        trials += first_q
        part_everywhere = first_q[0]
        if relative and "" in parts and part_everywhere.cost.peak_bytes > request.budget:
            most = len(parts[""])
            trials += least_that_fits(most, lambda q, names=names: wrapping_whole(q, names), request.budget)  # type: ignore[misc]
    return trials


def _code(names: Sequence[str]) -> str:
    if not names:
        return "MODULES = []  # the step fits without recomputation\n"
    listed = "".join(f"    {json.dumps(name, ensure_ascii=False)},\n" for name in names)
    return _CODE.format(names=f"[\n{listed}]")
