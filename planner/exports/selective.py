"""Selective checkpointing of blocks or parts of them: which calls of operators are saved, by what the schedule keeps.

Selective checkpointing saves the results of chosen operators and recomputes all others of its region at once. Results that are
written in place later, views, and draws (a skipped draw would shift those after it) cannot be saved and are recomputed. An op
that must run once has to be saved; where that is impossible, its module is not wrapped.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from remat_planner.planner.exports import selective_policy as policy
from remat_planner.planner.exports.blocks import blocks_of, left_out, nothing_to_checkpoint, obstacle, parts_of
from remat_planner.planner.exports.eager_checkpointing import CheckpointRegion, EagerStep
from remat_planner.planner.exports.modules import trials_of_modules
from remat_planner.planner.exports.operator_calls import OperatorCalls
from remat_planner.planner.exports.result import Export, Request, Trial, answer, best
from remat_planner.schedules import lifetimes

FORM = "sac"
_SHARES = 4  # regions are a quarter, a half, three quarters or all of the blocks


def export_sac(request: Request) -> Export:
    """The cheapest choice of saved calls that fits.

    The regions are the blocks, one child of each block, a share of either, or the modules that ``modules`` would wrap.

    Raises:
        ExportError: no module can be checkpointed.
    """
    blocks = blocks_of(request, FORM)
    calls = OperatorCalls(request.step)
    parts = parts_of(request.model, blocks)
    obstacles = {name: _obstacle(request, calls, name) for names in parts.values() for name in names}
    trials = [_trial(request, calls, (), frozenset())]
    if trials[0].cost.peak_bytes > request.budget:
        for modules in _choices_of_modules(request, blocks, parts, obstacles):
            trials += _trials(request, calls, modules)
        if len(trials) == 1:
            raise nothing_to_checkpoint(obstacles, blocks, FORM)
    chosen = best(trials, request.budget)
    return answer(request, FORM, chosen, _code(chosen.setting["regions"]), left_out(obstacles, blocks))


def _choices_of_modules(
    request: Request, blocks: list[str], parts: Mapping[str, Sequence[str]], obstacles: Mapping[str, str | None]
) -> Iterator[Sequence[str]]:
    without_saving = {name: reason or obstacle(request, name) for name, reason in obstacles.items()}
    trials = trials_of_modules(request, blocks, without_saving)
    if wrapped := best(trials, request.budget).setting["modules"]:
        yield wrapped
    for relative, names in parts.items():
        if "." not in relative:
            able = [name for name in names if obstacles[name] is None and request.step.recomputes(name)]
            for count in sorted({-(-len(able) * share // _SHARES) for share in range(1, _SHARES + 1)} - {0}):
                yield able[:count]


def _trials(request: Request, calls: OperatorCalls, modules: Sequence[str]) -> list[Trial]:
    """Wrap ``modules`` and bisect for the number of saved calls, in two orders: the schedule's first, and the best first."""
    step = request.step
    must_save = frozenset(i for module in modules for i in step.ops_of(module) if calls.must_save(i))
    kept = _kept(request)
    can_save = [
        i
        for module in modules
        for i in step.ops_of(module)
        if i <= _last_recomputed(step, module) and i not in must_save and step.graph.ops[i].seconds and calls.can_save(i)
    ]
    can_save.sort(key=lambda i: -_seconds_for_a_byte(step, i))
    trials = [_trial(request, calls, modules, must_save)]
    for order in (sorted(can_save, key=lambda i: i not in kept), can_save):
        fewest, most = 0, len(order)
        while fewest < most and trials[0].cost.peak_bytes <= request.budget:
            middle = (fewest + most + 1) // 2
            trials.append(_trial(request, calls, modules, must_save.union(order[:middle])))
            if trials[-1].cost.peak_bytes <= request.budget:
                fewest = middle
            else:
                most = middle - 1
    return trials


def _last_recomputed(step: EagerStep, module: str) -> int:
    last = step.last_recomputed(step.region(module))
    return -1 if last is None else last


def _trial(request: Request, calls: OperatorCalls, modules: Iterable[str], saved: Collection[int]) -> Trial:
    places: dict[str, dict[str, list[int]]] = {}
    regions = []
    for module in modules:
        ops = request.step.ops_of(module)
        saved_here = [i for i in ops if i in saved]
        regions.append(CheckpointRegion(ops, (module,), saved=frozenset(saved_here)))
        places[module] = calls.places(module, saved_here)
    return Trial({"regions": places}, request.step.cost(regions))


def _kept(request: Request) -> set[int]:
    """The forward ops whose results the schedule retains, at least one of each, from the forward to the backward."""
    graph, steps = request.schedule.graph, request.schedule.steps  # perhaps in a leaner form, with ops of its own
    loss = steps.index(next(i for i, op in enumerate(graph.ops) if op.outside))
    pieces = lifetimes(graph, steps)
    retained = (pieces.birth < loss) & (pieces.death > loss) & (pieces.storage >= 0)
    storages = set(pieces.storage[retained].tolist())
    names = {op.name for op, allocated in zip(graph.ops, graph.allocated, strict=True) if storages.intersection(allocated)}
    return {i for i in range(request.step.loss) if request.step.graph.ops[i].name in names}


def _seconds_for_a_byte(step: EagerStep, op: int) -> float:
    graph = step.graph
    return graph.ops[op].seconds / max(1, sum(graph.storages[s].bytes for s in graph.allocated[op]))


def _obstacle(request: Request, calls: OperatorCalls, module: str) -> str | None:
    """Why selective checkpointing of ``module`` would not give eager's step; None where it does."""
    step = request.step
    if (called := step.joint.calls.get(module, 0)) != 1:
        return f"{module} is called {called} times in a step"
    for i in step.ops_of(module):
        if calls.must_save(i) and not calls.can_save(i):
            return f"{step.graph.ops[i].name} must run once, and its result cannot be saved"
    return None


def _code(regions: dict[str, dict[str, list[int]]]) -> str:
    if not regions:
        return "REGIONS = {}  # the step fits without recomputation\n"
    source = inspect.getsource(policy).partition("from __future__")[2].replace("  # type: ignore[no-untyped-call]", "")
    return (
        f"from __future__{source}\n\n"
        "# For each module and operator, the places of the saved calls among its calls in that module.\n"
        f"REGIONS = {json.dumps(regions, indent=4, ensure_ascii=False)}\n\n\n"
        "def wrap(model):\n"
        '    """Checkpoint the modules, in place."""\n'
        "    wrap_regions(model, REGIONS)\n"
    )
