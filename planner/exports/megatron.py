"""Megatron-LM's ``--recompute-*`` options, for a transformer of repeated layers.

What Megatron-LM runs is its own model, so the bytes here are those of the given one with the same parts checkpointed:

    full, block, N       each of the first N layers
    full, uniform, N     N layers at a time, all of them
    selective, modules   in every layer: core_attn from the product of queries and keys to that with the values, mlp; layernorm
                         frees the outputs of the norms as well
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from remat_planner.planner.errors import ExportError
from remat_planner.planner.exports.blocks import blocks_of, obstacle, refuse_obstacles
from remat_planner.planner.exports.eager_checkpointing import Region
from remat_planner.planner.exports.result import Export, Request, Tried, answer, best, least_that_fits

FORM = "megatron"
_ATTENTION = ("attn", "attention")
_MLP = ("mlp", "ffn", "feed_forward")
_PRODUCTS = ("bmm", "baddbmm")


def export_megatron(request: Request) -> Export:
    """The cheapest line of options that fits.

    Raises:
        ExportError: the model is no stack of equal layers; a layer must not run twice.
    """
    layers = blocks_of(request, FORM)
    _refuse_other_stacks(request, layers)
    refuse_obstacles(request, layers, FORM)
    step, budget = request.step, request.budget

    def block(n: int) -> Tried:
        return Tried(_full("block", n), step.run([step.region(layer) for layer in layers[:n]]))

    tried = [Tried({}, step.run())]
    if tried[0].run.peak_bytes > budget:
        tried += least_that_fits(len(layers), block, budget)
        for n in range(1, len(layers) + 1):
            groups = [layers[k : k + n] for k in range(0, len(layers), n)]
            tried.append(Tried(_full("uniform", n), step.run([step.region(*group) for group in groups])))
        tried += _selective(request, layers)
    chosen = best(tried, budget)
    notes = (
        f"bytes and seconds are those of {type(request.model).__name__}, not of Megatron-LM's own layers and kernels",
        "the count of layers is that of one pipeline stage that holds them all",
    )
    return answer(request, FORM, chosen, _line(chosen), notes)


def _full(method: str, layers: int) -> dict[str, object]:
    return {"recompute_granularity": "full", "recompute_method": method, "recompute_num_layers": layers}


def _selective(request: Request, layers: Sequence[str]) -> Iterator[Tried]:
    by_module = {name: regions for name in _REGIONS if (regions := _REGIONS[name](request, layers))}
    for size in range(1, len(by_module) + 1):
        for names in combinations(by_module, size):
            setting = {"recompute_granularity": "selective", "recompute_modules": list(names)}
            yield Tried(setting, request.step.run([region for name in names for region in by_module[name]]))


def _core_attention(request: Request, layers: Sequence[str]) -> list[Region]:
    step, regions = request.step, []
    for name in _children(request, layers, _ATTENTION):
        own = [i for i in step.ops_of(name) if step.graph.ops[i].module == name]
        core = [i for i in own if _is_attention(step.graph.ops[i].kind)]
        if core:
            region = Region(tuple(i for i in own if core[0] <= i <= core[-1]))
            regions += [region] if step.stop(region) >= 0 else []
    return regions


def _is_attention(kind: str) -> bool:
    return "scaled_dot_product" in kind or kind in _PRODUCTS


def _mlp(request: Request, layers: Sequence[str]) -> list[Region]:
    return [request.step.region(name) for name in _children(request, layers, _MLP)]


def _norms(request: Request, layers: Sequence[str]) -> list[Region]:
    names = [
        f"{layer}.{name}"
        for layer in layers
        for name, child in request.model.get_submodule(layer).named_children()
        if "norm" in type(child).__name__.lower()
    ]
    return [Region(request.step.ops_of(name), discards=True) for name in names]


_REGIONS = {"core_attn": _core_attention, "layernorm": _norms, "mlp": _mlp}


def _children(request: Request, layers: Sequence[str], words: Sequence[str]) -> list[str]:
    """The children of the layers that are called so and are no norms, where they can run twice."""
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


def _line(chosen: Tried) -> str:
    if not chosen.setting:
        return "# the step fits without recomputation: no option\n"
    words = []
    for name, value in chosen.setting.items():
        values = value if isinstance(value, list) else [value]
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return " ".join(words) + "\n"
