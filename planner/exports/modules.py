"""The modules to wrap with ``torch.utils.checkpoint``: whole blocks, or one part of each, as many as it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from remat_planner.planner.exports.blocks import blocks_of, left_out, nothing_to_checkpoint, obstacle, parts_of
from remat_planner.planner.exports.result import Export, Request, Tried, answer, best, least_that_fits

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
    why = {name: obstacle(request, name) for names in parts_of(request.model, blocks).values() for name in names}
    chosen = best(choices(request, blocks, why), request.budget)
    if not chosen.setting["modules"] and chosen.run.peak_bytes > request.budget:
        raise nothing_to_checkpoint(why, blocks, FORM)
    return answer(request, FORM, chosen, _code(chosen.setting["modules"]), left_out(why, blocks))


def choices(request: Request, blocks: Sequence[str], why: Mapping[str, str | None]) -> list[Tried]:
    """No module; the first q blocks, or one part of the first q blocks; that part of all and the first q blocks whole.

    ``why`` says of each block and part what keeps it from being wrapped.
    """
    parts = {
        relative: able
        for relative, names in parts_of(request.model, blocks).items()
        if (able := [name for name in names if why[name] is None and request.step.stop(request.step.region(name)) >= 0])
    }

    def run(names: Sequence[str]) -> Tried:
        return Tried({"modules": list(names)}, request.step.run([request.step.region(name) for name in names]))

    def promoted(q: int, names: Sequence[str]) -> Tried:
        inside = tuple(f"{block}." for block in parts[""][:q])
        return run([*parts[""][:q], *(name for name in names if not name.startswith(inside))])

    tried = [run(())]
    if tried[0].run.peak_bytes <= request.budget:
        return tried
    for relative, names in parts.items():
        found = least_that_fits(len(names), lambda q, names=names: run(names[:q]), request.budget)  # type: ignore[misc]
        tried += found
        if relative and "" in parts and found[0].run.peak_bytes > request.budget:
            most = len(parts[""])
            tried += least_that_fits(most, lambda q, names=names: promoted(q, names), request.budget)  # type: ignore[misc]
    return tried


def _code(names: Sequence[str]) -> str:
    if not names:
        return "MODULES = []  # the step fits without recomputation\n"
    listed = "".join(f"    {name!r},\n" for name in names).replace("'", '"')
    return _CODE.format(names=f"[\n{listed}]")
