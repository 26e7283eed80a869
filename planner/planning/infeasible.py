"""Why no schedule fits a budget: what the least possible peak consists of, and what would lower it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from remat_planner.planner.errors import InfeasibleBudgetError, NeededValue
from remat_planner.planner.formatting import format_percent
from remat_planner.planner.planning.needed_values import Needed
from remat_planner.schedules import Graph, Transfer, lifetimes, simulate
from remat_planner.solvers import ANY_SCHEDULE, Order, Solution

_LOSS_OPERATORS = ("cross_entropy", "log_softmax", "nll_loss")
"""Operators of losses, whose size is that of all logits."""
_BATCH_ROWS_AND_COLUMNS = 3
"""Dimensions of the scores of attention, at least."""


@dataclass(frozen=True)
class Floor:
    """Bytes at the least peak that was found.

    Attributes:
        constants: resident during the whole step, by kind ("parameters", "inputs", "optimizer").
        gradients: of parameters and inputs, made by then.
        op: name of the op or transfer that runs.
        of_op: what it reads and computes, and its workspace.
        activations: what else is retained.
        is_loss: whether the op is of a loss.
    """

    constants: dict[str, int]
    gradients: int
    op: str
    of_op: int
    activations: int
    is_loss: bool

    @classmethod
    def of(cls, graph: Graph, steps: tuple[int, ...]) -> Floor:
        """At the peak of ``steps``."""
        moment, pieces = simulate(graph, steps).peak_step, lifetimes(graph, steps)
        action = graph.actions[steps[moment]]
        if isinstance(action, Transfer):
            touched, is_loss = {action.storage}, False
        else:
            touched = {graph.values[v].storage for v in (*action.reads, *action.writes)}
            is_loss = action.outside or any(name in action.kind for name in _LOSS_OPERATORS)
        gradients = {graph.values[v].storage for v in graph.results if _is_of_backward(graph, v)}
        alive = (pieces.birth <= moment) & (pieces.death >= moment)
        counted = dict.fromkeys(("op", "gradients", "activations"), 0)
        for storage, size in zip(pieces.storage[alive].tolist(), pieces.bytes[alive].tolist(), strict=True):
            kind = "op" if storage in touched else "gradients" if storage in gradients else "activations"
            counted[kind] += size
        return cls(
            constants={name: size for name, size in graph.constants.items() if size},
            gradients=counted["gradients"],
            op=action.name,
            of_op=counted["op"] + action.workspace,
            activations=counted["activations"],
            is_loss=is_loss,
        )

    @property
    def fixed(self) -> int:
        """What a smaller batch does not lower."""
        return self.gradients + sum(size for kind, size in self.constants.items() if kind != "inputs")

    def describe(self) -> str:
        """The parts in words."""
        parts = [f"{kind} {size:,}" for kind, size in self.constants.items()]
        moving = {"gradients": self.gradients, "activations": self.activations}
        parts += [f"{kind} {size:,}" for kind, size in moving.items() if size]
        return f"{', '.join(parts)}, and {self.of_op:,} for {self.op} (what it reads and computes, and its workspace)"


def no_schedule_error(
    graph: Graph, solution: Solution, budget: int, baseline: int, order: Order = "given"
) -> InfeasibleBudgetError:
    """For a budget within which ``solution`` found no schedule; ``baseline`` is the peak without recomputation."""
    proven = math.isinf(solution.bound)
    in_any_order = proven and solution.assumption == ANY_SCHEDULE
    verdict = f"exists ({solution.assumption})" if proven else "was found"
    share = f" ({format_percent(solution.minimum / baseline)} of the peak without recomputation)" if baseline else ""
    floor = Floor.of(graph, solution.minimum_steps) if solution.minimum_steps else None
    consists = "" if floor is None else f": {floor.describe()}"
    needed = Needed.of(graph, solution, budget)
    explained = "" if needed is None else f" {needed.describe()}."
    advice = _advice(graph, floor, needed, budget, movable=order == "given" and not in_any_order)
    return InfeasibleBudgetError(
        f"no schedule {verdict} within {budget:,} bytes.{explained} The least budget for which one was found is "
        f"{solution.minimum:,} bytes{share}{consists}. {advice}",
        budget=budget,
        minimum=solution.minimum,
        bottleneck=solution.bottleneck or "",
        proven=proven,
        values=() if needed is None else needed.values,
    )


def update_error(graph: Graph, budget: int, baseline: int) -> InfeasibleBudgetError:
    """For a budget within which the optimizer's step does not fit, whatever the schedule."""
    constants = ", ".join(f"{name} {size:,}" for name, size in graph.constants.items() if size)
    return InfeasibleBudgetError(
        f"the optimizer's step alone takes {graph.update_peak:,} bytes ({format_percent(graph.update_peak / baseline)} of the "
        f"peak without recomputation), more than the budget of {budget:,}: {constants}, outputs and gradients "
        f"{graph.lasting_bytes:,}, and its own intermediates {graph.update:,}. "
        "Recomputation cannot lower that. Raise the budget to it, or take an optimizer whose step needs less (fused=True, or "
        "foreach=False)",
        budget=budget,
        minimum=graph.update_peak,
        bottleneck="optimizer step",
        proven=True,
    )


def _advice(graph: Graph, floor: Floor | None, needed: Needed | None, budget: int, *, movable: bool) -> str:
    """What would make the step fit: a smaller batch only where it does, another order only if ``movable``."""
    values = () if needed is None else needed.values
    if floor is None or budget > floor.fixed:
        helps = ["make the batch smaller"]
        if floor is not None and floor.is_loss:
            helps.append('compute the loss in chunks (variants="any" does where it is a cross_entropy behind a linear layer)')
        if movable and not graph.pools:
            helps.append('let first executions move (order="any")')
        if any(_is_of_attention(graph, value) for value in values):
            helps.append("compute attention by F.scaled_dot_product_attention, which keeps no scores")
        if any(value.role == "output" for value in values):
            helps.append('drop the outputs before the backward (TrainingState(outputs="dropped"))')
        if any(value.role == "retained" for value in values) and not graph.pools:
            helps.append("copy what is retained to the host or a disk (offload=)")
        return f'Raise the budget to that (budget="min"), or {", or ".join(helps)}'
    helps = ["divide the training state over ranks (TrainingState(shard=N))"]
    if graph.constants.get("optimizer"):
        helps.append("take an optimizer with less state, or keep it on the host (TrainingState(optimizer_offload=True))")
    return (
        f'Raise the budget to that (budget="min"), or {", or ".join(helps)}. A smaller batch does not help: {floor.fixed:,} '
        "bytes do not depend on it"
    )


def _is_of_attention(graph: Graph, value: NeededValue) -> bool:
    """Whether ``value`` has a score for each pair of tokens: the softmax of square matrices."""
    index = graph.by_name.get(value.name)
    kind = "" if index is None else graph.actions[index].kind
    is_square = len(value.shape) >= _BATCH_ROWS_AND_COLUMNS and value.shape[-1] == value.shape[-2]
    return is_square and "_softmax" in kind and "log" not in kind


def _is_of_backward(graph: Graph, value: int) -> bool:
    producer = graph.producer[value]
    return producer is not None and graph.ops[producer].phase == "backward"
