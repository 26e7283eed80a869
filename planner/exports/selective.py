"""Selective checkpointing of blocks or parts of them: which calls of operators are saved, from what the schedule keeps.

Selective checkpointing saves the results of operators, and computes all others of its region again at once. What it cannot save
is left to be computed again: what is written in place later, what draws (a draw that is not drawn again would shift those
after it), views. What must run once it has to save, or the module stays as it is.
"""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from remat_planner.planner.exports import selective_policy as policy
from remat_planner.planner.exports.blocks import blocks_of, left_out, nothing_to_checkpoint, obstacle, parts_of
from remat_planner.planner.exports.eager_checkpointing import EagerStep, Region
from remat_planner.planner.exports.modules import choices
from remat_planner.planner.exports.result import Export, Request, Tried, answer, best
from remat_planner.schedules import lifetimes
from remat_planner.tracer.joint import written_arguments
from remat_planner.tracer.torch_private import storage_key

FORM = "sac"
_SHARES = 4  # how many of the blocks become regions: a quarter, a half, ...
# Selective checkpointing does not count these, as checkpointing itself adds and leaves out some.
_NOT_COUNTED = ("aten.detach.default",)


def export_sac(request: Request) -> Export:
    """The cheapest choice of saved calls that fits.

    The regions are the blocks, or one child of each, or of some of them, or what would be wrapped without saving anything.

    Raises:
        ExportError: no module can be checkpointed.
    """
    blocks = blocks_of(request, FORM)
    calls = _Calls(request.step)
    parts = parts_of(request.model, blocks)
    why = {name: _obstacle(request, calls, name) for names in parts.values() for name in names}
    tried = [_tried(request, calls, (), frozenset())]
    if tried[0].run.peak_bytes > request.budget:
        for regions in _choices_of_regions(request, blocks, parts, why):
            tried += _with(request, calls, regions)
        if len(tried) == 1:
            raise nothing_to_checkpoint(why, blocks, FORM)
    chosen = best(tried, request.budget)
    return answer(request, FORM, chosen, _code(chosen.setting["regions"]), left_out(why, blocks))


def _choices_of_regions(
    request: Request, blocks: list[str], parts: Mapping[str, Sequence[str]], why: Mapping[str, str | None]
) -> Iterator[Sequence[str]]:
    twice = {name: reason or obstacle(request, name) for name, reason in why.items()}
    if wrapped := best(choices(request, blocks, twice), request.budget).setting["modules"]:
        yield wrapped
    for relative, names in parts.items():
        if "." not in relative:
            able = [name for name in names if why[name] is None and request.step.stop(request.step.region(name)) >= 0]
            for count in sorted({-(-len(able) * share // _SHARES) for share in range(1, _SHARES + 1)} - {0}):
                yield able[:count]


def _with(request: Request, calls: _Calls, modules: Sequence[str]) -> list[Tried]:
    """With these modules as regions: bisect for how many calls can be saved, the schedule's or the best ones first."""
    step = request.step
    must = frozenset(i for module in modules for i in step.ops_of(module) if calls.must_save(i))
    kept = _kept(request)
    places = [i for module in modules for i in step.ops_of(module) if i <= step.stop(step.region(module))]
    able = [i for i in places if i not in must and step.graph.ops[i].seconds and calls.can_save(i)]
    able.sort(key=lambda i: -_seconds_for_a_byte(step, i))
    found = [_tried(request, calls, modules, must)]
    for order in (sorted(able, key=lambda i: i not in kept), able):
        fewest, most = 0, len(order)
        while fewest < most and found[0].run.peak_bytes <= request.budget:
            middle = (fewest + most + 1) // 2
            found.append(_tried(request, calls, modules, must.union(order[:middle])))
            if found[-1].run.peak_bytes <= request.budget:
                fewest = middle
            else:
                most = middle - 1
    return found


def _tried(request: Request, calls: _Calls, modules: Iterable[str], saved: Collection[int]) -> Tried:
    regions: dict[str, dict[str, list[int]]] = {}
    checkpointed = []
    for module in modules:
        ops = request.step.ops_of(module)
        own = [i for i in ops if i in saved]
        checkpointed.append(Region(ops, (module,), saved=frozenset(own)))
        regions[module] = calls.places(module, own)
    return Tried({"regions": regions}, request.step.run(checkpointed))


def _kept(request: Request) -> set[int]:
    """The ops of the forward of which the schedule keeps a result from the forward to the backward."""
    schedule = request.schedule
    graph, steps = schedule.graph, schedule.steps
    loss = steps.index(request.step.loss)
    pieces = lifetimes(graph, steps)
    held = (pieces.birth < loss) & (pieces.death > loss) & (pieces.storage >= 0)
    storages = set(pieces.storage[held].tolist())
    return {i for i in range(request.step.loss) if storages.intersection(graph.allocated[i])}


def _seconds_for_a_byte(step: EagerStep, op: int) -> float:
    graph = step.graph
    return graph.ops[op].seconds / max(1, sum(graph.storages[s].bytes for s in graph.allocated[op]))


def _obstacle(request: Request, calls: _Calls, module: str) -> str | None:
    """Why selective checkpointing of ``module`` would not give eager's step; None where it does."""
    step = request.step
    if (called := step.joint.calls.get(module, 0)) != 1:
        return f"{module} is called {called} times in a step"
    for i in step.ops_of(module):
        if calls.must_save(i) and not calls.can_save(i):
            return f"{step.graph.ops[i].name} must run once, and what it makes cannot be saved"
    return None


class _Calls:
    """The operators that eager calls, and how selective checkpointing knows them."""

    def __init__(self, step: EagerStep) -> None:
        self._step = step
        self._mutated = {key for i in range(step.loss) for key in self._written_by(i)}

    def must_save(self, op: int) -> bool:
        """Whether the op must not run twice."""
        return self._step.graph.ops[op].pinned is not None or bool(self._step.node(op).meta["once"])

    def can_save(self, op: int) -> bool:
        """Whether saving the op's results gives eager's bits."""
        operator, node = self._step.operator(op), self._step.node(op)
        if operator is None or operator.in_backward or operator.name in _NOT_COUNTED or operator.name != str(node.target):
            return False  # not an operator that is called as it stands here
        if node.meta["random"] or written_arguments(node.target, node.args, node.kwargs):
            return False
        if not self._step.graph.allocated[op]:
            return False
        return self._mutated.isdisjoint(storage_key(t) for t in _tensors(node.meta["val"]))

    def places(self, module: str, ops: Collection[int]) -> dict[str, list[int]]:
        """For each operator the places of ``ops`` among its calls in the forward of ``module``."""
        wanted = {self._step.node(i).meta["operator"] for i in ops}
        count: defaultdict[str, int] = defaultdict(int)
        places: defaultdict[str, list[int]] = defaultdict(list)
        for k, operator in enumerate(self._step.joint.operators):
            if operator.in_backward or not (operator.module == module or operator.module.startswith(f"{module}.")):
                continue
            if k in wanted:
                places[operator.name].append(count[operator.name])
            count[operator.name] += 1
        return dict(places)

    def _written_by(self, op: int) -> list[int]:
        """The storages that eager's operator writes to in place, where the graph has a pure form of it."""
        operator = self._step.operator(op)
        if operator is None:
            return []
        node = self._step.node(op)
        arguments = _schema_arguments(operator.name)
        return [
            storage_key(tensor)
            for place, declared in enumerate(arguments)
            if declared.alias_info is not None and declared.alias_info.is_write and place < len(node.args)
            for argument in [node.args[place]]
            if isinstance(argument, torch.fx.Node)
            for tensor in _tensors(argument.meta.get("val"))
        ]


def _schema_arguments(name: str) -> Sequence[Any]:
    """The declared arguments of an operator by its full name, "aten.mm.default"."""
    found: Any = torch.ops
    for part in name.split("."):
        found = getattr(found, part, None)
    return found._schema.arguments if isinstance(found, torch._ops.OpOverload) else ()


def _tensors(value: Any) -> list[torch.Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]


def _code(regions: dict[str, dict[str, list[int]]]) -> str:
    if not regions:
        return "REGIONS = {}  # the step fits without recomputation\n"
    source = inspect.getsource(policy).partition("from __future__")[2].replace("  # type: ignore[no-untyped-call]", "")
    return (
        f"from __future__{source}\n\n"
        "# For each module, the operators of which calls are saved, by their places among its calls in that module.\n"
        f"REGIONS = {json.dumps(regions, indent=4)}\n\n\n"
        "def wrap(model):\n"
        '    """Checkpoint the modules, in place."""\n'
        "    wrap_regions(model, REGIONS)\n"
    )
