"""What a schedule does with the result of one op, and what the ops of a module take and recompute together."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from remat_planner.planner.module_paths import merged_path, without_numbers
from remat_planner.planner.reports.activations import Decision, decisions
from remat_planner.planner.reports.breakdown import Breakdown, breakdowns
from remat_planner.planner.reports.copies import Copy, copies_by_storage
from remat_planner.planner.reports.operator_names import short_operator
from remat_planner.schedules import Graph, Schedule, lifetimes


@dataclass(frozen=True)
class Explanation:
    """One op.

    Attributes:
        op: its name.
        kind: the operator.
        source: "file:line" of the model's code.
        makes: "dtype[shape]" of each tensor that it writes.
        bytes: memory that it allocates.
        seconds: time of one execution.
        runs: executions in a step.
        decision: what the schedule does with the result between forward and backward.
        pinned: why it must run exactly once, or None.
        forward_readers: names of the forward ops that read the result, through views too.
        backward_readers: names of the backward ops that do.
        alive: first and last step of each time that the result is in memory.
        alive_at_peak: whether it is in memory at the peak.
        copies: when it leaves the device and returns.
    """

    op: str
    kind: str
    source: str
    makes: tuple[str, ...]
    bytes: int
    seconds: float
    runs: int
    decision: str
    pinned: str | None
    forward_readers: tuple[str, ...]
    backward_readers: tuple[str, ...]
    alive: tuple[tuple[int, int], ...]
    alive_at_peak: bool
    copies: tuple[Copy, ...] = ()


@dataclass(frozen=True)
class ModuleExplanation:
    """What some ops take and recompute.

    Attributes:
        ops: their number.
        together: all of them.
        operators: those of each operator that take or recompute something.
    """

    ops: int
    together: Breakdown
    operators: tuple[Breakdown, ...]


def explain(schedule: Schedule, what: str) -> list[Explanation]:
    """The ops that ``what`` means and that allocate memory, the largest first."""
    graph = schedule.graph
    facts = _Facts(
        decisions=decisions(schedule),
        executions=Counter(schedule.steps),
        spans=_spans(schedule),
        readers=_readers(graph),
        results={graph.values[value].storage for value in graph.results},
        copies=copies_by_storage(schedule),
    )
    chosen = [i for i in meant_ops(graph, what) if graph.allocated[i]]
    return sorted((_explained(schedule, i, facts) for i in chosen), key=lambda explanation: -explanation.bytes)


def explain_together(schedule: Schedule, what: str, *, title: str) -> ModuleExplanation | None:
    """What the ops that ``what`` means take and recompute together, under that title, and each of their operators.

    None where they neither take nor recompute anything.
    """
    graph = schedule.graph
    ops = meant_ops(graph, what)
    by_kind: defaultdict[str, list[int]] = defaultdict(list)
    for i in ops:
        by_kind[short_operator(graph.ops[i].kind)].append(i)
    together = breakdowns(schedule, [(title, ops)])
    return ModuleExplanation(len(ops), together[0], tuple(breakdowns(schedule, by_kind.items()))) if together else None


def meant_ops(graph: Graph, what: str) -> list[int]:
    """The ops inside the module that ``what`` names; else those of the modules that reports show under that name, with merged
    numbers; else those that have it in name, module, operator or source.
    """
    inside = [i for i, op in enumerate(graph.ops) if f"{op.module}.".startswith(f"{what}.")]
    if inside and what:
        return inside
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for i, op in enumerate(graph.ops):
        alike[without_numbers(op.module)].append(i)
    for group in alike.values():
        if what and merged_path(graph.ops[i].module for i in group) == what:
            return group
    return [i for i, op in enumerate(graph.ops) if any(what in text for text in (op.name, op.module, op.kind, op.source))]


@dataclass(frozen=True)
class _Facts:
    """Facts about the whole schedule that the explanation of one op draws on."""

    decisions: dict[int, Decision]
    executions: Counter[int]
    spans: list[list[tuple[int, int]]]
    readers: list[list[int]]
    results: set[int]
    copies: dict[int, list[Copy]]


def _explained(schedule: Schedule, i: int, facts: _Facts) -> Explanation:
    graph = schedule.graph
    op, allocated = graph.ops[i], graph.allocated[i]
    alive = tuple(span for storage in allocated for span in facts.spans[storage])
    readers = sorted({reader for storage in allocated for reader in facts.readers[storage]})
    backward_readers = tuple(graph.ops[r].name for r in readers if graph.ops[r].phase == "backward")
    decision: str
    if facts.results.intersection(allocated):
        decision = "a result of the step"
    elif op.phase == "backward":
        decision = "a temporary of the backward"
    elif backward_readers or facts.decisions[i] == "recomputed":
        decision = facts.decisions[i]
    else:
        decision = "a temporary of the forward"
    return Explanation(
        op=op.name,
        kind=op.kind,
        source=op.source,
        makes=tuple(f"{graph.values[v].dtype}{list(graph.values[v].shape)}" for v in op.writes),
        bytes=sum(graph.storages[storage].bytes for storage in allocated),
        seconds=op.seconds,
        runs=facts.executions[i],
        decision=decision,
        pinned=op.pinned,
        forward_readers=tuple(graph.ops[r].name for r in readers if graph.ops[r].phase == "forward"),
        backward_readers=backward_readers,
        alive=alive,
        alive_at_peak=any(first <= schedule.simulation.peak_step <= last for first, last in alive),
        copies=tuple(copy for storage in allocated for copy in facts.copies.get(storage, ())),
    )


def _spans(schedule: Schedule) -> list[list[tuple[int, int]]]:
    """For each storage, first and last step of each time that it is in memory."""
    pieces = lifetimes(schedule.graph, schedule.steps)
    spans: list[list[tuple[int, int]]] = [[] for _ in schedule.graph.storages]
    for storage, birth, death in zip(pieces.storage.tolist(), pieces.birth.tolist(), pieces.death.tolist(), strict=True):
        if storage >= 0:
            spans[storage].append((birth, death))
    return spans


def _readers(graph: Graph) -> list[list[int]]:
    """For each storage the ops that read a value on it."""
    readers: list[list[int]] = [[] for _ in graph.storages]
    for i, op in enumerate(graph.ops):
        for value in op.reads:
            readers[graph.values[value].storage].append(i)
    return readers
