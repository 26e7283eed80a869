"""Megatron-LM's ``--recompute-*`` options, for a transformer of repeated layers.

Megatron-LM runs layers of its own; the predicted bytes are those of the given model with the same parts checkpointed:

    full, block, N       each of the first N layers
    full, uniform, N     all layers, N in one checkpoint
    selective, modules   in every layer: core_attn (from the product of queries and keys to that with the values), mlp, and
                         layernorm, which also frees the outputs of the norms
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from remat_planner.planner.errors import ExportError
from remat_planner.planner.exports.blocks import blocks_of, obstacle, refuse_obstacles
from remat_planner.planner.exports.eager_checkpointing import CheckpointRegion
from remat_planner.planner.exports.result import Export, Request, Trial, answer, best, least_that_fits

FORM = "megatron"
_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "ffn", "feed_forward")
_PRODUCTS = ("bmm", "baddbmm")


def export_megatron(request: Request) -> Export:
    """The cheapest line of options that fits.

    Raises:
        ExportError: the model is not one stack of equal layers; a layer must not run twice.
    """
    layers = blocks_of(request, FORM)
    _refuse_other_stacks(request, layers)
    refuse_obstacles(request, layers, FORM)
    step, budget = request.step, request.budget

    def block(n: int) -> Trial:
        return Trial(_full("block", n), step.cost([step.region(layer) for layer in layers[:n]]))

    trials = [Trial({}, step.cost())]
    if trials[0].cost.peak_bytes > budget:
        trials += least_that_fits(len(layers), block, budget)
        for n in range(1, len(layers) + 1):
            groups = [layers[k : k + n] for k in range(0, len(layers), n)]
            trials.append(Trial(_full("uniform", n), step.cost([step.region(*group) for group in groups])))
        trials += _selective(request, layers)
    chosen = best(trials, budget)
    notes = (
        f"bytes and seconds are those of {type(request.model).__name__}, not of Megatron-LM's own layers and kernels",
        "the count of layers is that of one pipeline stage that holds them all",
    )
    return answer(request, FORM, chosen, _line(chosen), notes)


def _full(method: str, layers: int) -> dict[str, object]:
    return {"recompute_granularity": "full", "recompute_method": method, "recompute_num_layers": layers}


def _selective(request: Request, layers: Sequence[str]) -> Iterator[Trial]:
    by_module = {name: regions for name in _REGIONS if (regions := _REGIONS[name](request, layers))}
    for size in range(1, len(by_module) + 1):
        for names in combinations(by_module, size):
            setting = {"recompute_granularity": "selective", "recompute_modules": list(names)}
            yield Trial(setting, request.step.cost([region for name in names for region in by_module[name]]))


def _core_attention(request: Request, layers: Sequence[str]) -> list[CheckpointRegion]:
    step = request.step
    regions: list[CheckpointRegion] = []
    for name in _children(request, layers, _ATTENTION):
        ops = [i for i in step.ops_of(name) if step.graph.ops[i].module == name]
        core = [i for i in ops if _is_attention(step.graph.ops[i].kind)]
        if core:
            region = CheckpointRegion(tuple(i for i in ops if core[0] <= i <= core[-1]))
            if step.last_recomputed(region) is not None:
                regions.append(region)
    return regions


def _is_attention(kind: str) -> bool:
    return "scaled_dot_product" in kind or kind in _PRODUCTS


def _mlp(request: Request, layers: Sequence[str]) -> list[CheckpointRegion]:
    return [request.step.region(name) for name in _children(request, layers, _MLP)]


def _norms(request: Request, layers: Sequence[str]) -> list[CheckpointRegion]:
    names = [
        f"{layer}.{name}"
        for layer in layers
        for name, child in request.model.get_submodule(layer).named_children()
        if "norm" in type(child).__name__.lower()
    ]
    return [CheckpointRegion(request.step.ops_of(name), discards=True) for name in names]


_REGIONS = {"core_attn": _core_attention, "layernorm": _norms, "mlp": _mlp}


def _children(request: Request, layers: Sequence[str], words: Sequence[str]) -> list[str]:
    """The children of the layers with one of ``words`` in their name that are not norms and can run twice."""
    return [
        full
        for layer in layers
        for name, child in request.model.get_submodule(layer).named_children()
        if any(word in name.lower() for word in words) and "norm" not in type(child).__name__.lower()
        if obstacle(request, full := f"{layer}.{name}") is None
    ]


def _refuse_other_stacks(request: Request, layers: Sequence[str]) -> None:
    parents = list(dict.fromkeys(layer.rpartition(".")[0] for layer in layers))
    if len(parents) > 1:
        raise ExportError(
            f"the layers of this {type(request.model).__name__} lie in {', '.join(parents)}: the options mean one stack. "
            "Export to modules or sac",
            form=FORM,
            names=tuple(parents),
        )
    kinds = {type(request.model.get_submodule(layer)).__name__ for layer in layers}
    if len(kinds) > 1:
        raise ExportError(
            f"the layers in {parents[0]} are not alike ({', '.join(sorted(kinds))}): the options mean equal ones. Export to "
            "modules or sac",
            form=FORM,
            names=tuple(layers),
        )


def _line(chosen: Trial) -> str:
    if not chosen.setting:
        return "# the step fits without recomputation: no option\n"
    words = []
    for name, value in chosen.setting.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words) + "\n"
