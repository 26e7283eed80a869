"""What a training step takes in each of the usual combinations of precision, shards and where the optimizer is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from remat_planner.planner.errors import OptimizerError, TrainingStateError
from remat_planner.planner.planning import Loss, Settings, settings_for, trace_step, with_settings
from remat_planner.planner.reports.peak_memory import ACTIVATIONS, gradient_bytes, memory_at_peak
from remat_planner.planner.training_state import EIGHT_BIT, GATHERED, MASTER, TrainingState
from remat_planner.schedules import Graph, Schedule
from remat_planner.tracer import CaptureError
from remat_planner.tracer.record import swapped

_MIXED = "bfloat16, master weights"


@dataclass(frozen=True)
class Combination:
    """One way to train.

    Attributes:
        name: in words.
        dtype: of parameters, floating-point buffers and inputs.
        options: those arguments of ``remat_planner.plan`` that make it.
    """

    name: str
    dtype: torch.dtype
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A combination with its bytes, as ``remat_planner.plan`` predicts them where nothing is recomputed.

    Attributes:
        parameters, master_weights, optimizer, gathered: there all the time; ``gathered`` is what shards need whole for a while.
        gradients: when the backward is over.
        activations: at the peak.
        peak: of the whole step.
        frees: how much less than that of the first row; negative where it takes more.
    """

    combination: Combination
    parameters: int
    gradients: int
    master_weights: int
    optimizer: int
    gathered: int
    activations: int
    peak: int
    frees: int


@dataclass(frozen=True)
class Combinations:
    """The rows, and what was left out with the reason."""

    rows: tuple[Row, ...]
    left_out: Mapping[str, str]


def combinations(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str = "adamw",
    ranks: int = 8,
    trying: Callable[[str], None] = lambda _: None,
) -> Combinations:
    """Predict each combination for this model, which is left as it was.

    Args:
        model, args, kwargs, loss, costs: as in ``remat_planner.plan``.
        optimizer: name of the optimizer that trains, with its settings.
        ranks: over how many the stages of ZeRO divide.
        trying: called with the dtype that is captured next.

    Raises:
        OptimizerError: the optimizer cannot be counted.
        TrainingStateError: no number of ranks.
        tracer.CaptureError: the step cannot be captured in float32.
    """
    TrainingState(shard=ranks)  # refuses what is no number of ranks
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    for dtype, usual in _usual(optimizer, ranks).items():
        trying(str(dtype).removeprefix("torch."))
        with swapped(model, _in_dtype(model, dtype)):
            try:
                step = trace_step(model, *_inputs_in(dtype, args, kwargs), settings=Settings(loss=loss, costs=costs))
            except CaptureError as error:
                if not rows:
                    raise
                left_out |= dict.fromkeys(usual, f"the step cannot be captured in {dtype}: {error}")
                continue
            for name, options in usual.items():
                try:
                    settings = settings_for(model, loss=loss, costs=costs, **options)
                except (OptimizerError, TrainingStateError) as error:
                    if not rows:
                        raise
                    left_out[name] = str(error)
                    continue
                graph = with_settings(step.graph, step.joint, settings, block=step.origin.allocation_block)
                rows.append(_row(Combination(name, dtype, options), graph, rows[0].peak if rows else None))
    return Combinations(tuple(rows), left_out)


def _usual(optimizer: str, ranks: int) -> dict[torch.dtype, dict[str, dict[str, Any]]]:
    """Options of ``remat_planner.plan`` by name, by the dtype of the model."""
    own: dict[str, Any] = {"optimizer": optimizer}
    name, _, given = optimizer.partition(":")
    eight_bit = name if name.lower().endswith(EIGHT_BIT) else name + EIGHT_BIT
    mixed = own | {"master_weights": True}
    usual: dict[str, dict[str, Any]] = {
        "bfloat16": own,
        f"bfloat16, {eight_bit}": {"optimizer": f"{eight_bit}:{given}" if given else eight_bit},
        _MIXED: mixed,
        f"{_MIXED}, accumulating": mixed | {"accumulate": True},
        f"{_MIXED}, accumulating in float32": mixed | {"accumulate": True, "gradient_dtype": "float32"},
        f"{_MIXED}, optimizer on the host": mixed | {"optimizer_offload": True},
    }
    if ranks > 1:
        for stage in (1, 2, 3):
            usual[f"{_MIXED}, ZeRO-{stage} over {ranks}"] = mixed | {"shard": ranks, "zero_stage": stage}
        sharded = mixed | {"shard": ranks, "zero_stage": 3}
        usual[f"{_MIXED}, ZeRO-3 over {ranks}, accumulating"] = sharded | {"accumulate": True}
        usual[f"{_MIXED}, ZeRO-3 over {ranks}, optimizer on the host"] = sharded | {"optimizer_offload": True}
    return {torch.float32: {"float32": own, "float32, accumulating": own | {"accumulate": True}}, torch.bfloat16: usual}


def _in_dtype(model: nn.Module, dtype: torch.dtype) -> dict[int, torch.Tensor]:
    """What stands for each parameter and buffer, by its id, in the model that ``model.to(dtype)`` would make."""
    own = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.dtype != dtype]
    copies = [t.detach().to(dtype) for t in own]
    return {
        id(t): nn.Parameter(copied, t.requires_grad) if isinstance(t, nn.Parameter) else copied
        for t, copied in zip(own, copies, strict=True)
    }


def _inputs_in(dtype: torch.dtype, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def cast(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        return leaf.detach().to(dtype).requires_grad_(leaf.requires_grad)

    inputs: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(cast, (tuple(args), dict(kwargs)))
    return inputs


def _row(combination: Combination, graph: Graph, first: int | None) -> Row:
    unplanned = tuple(range(len(graph.ops)))
    schedule = Schedule(graph, unplanned, budget=0, solver="none", status="feasible", bound_seconds=0.0)
    peak = schedule.peak_bytes
    return Row(
        combination=combination,
        parameters=graph.constants["parameters"],
        gradients=gradient_bytes(graph),
        master_weights=graph.constants.get(MASTER, 0),
        optimizer=graph.constants["optimizer"],
        gathered=graph.constants.get(GATHERED, 0),
        activations=memory_at_peak(schedule).get(ACTIVATIONS, 0),
        peak=peak,
        frees=0 if first is None else first - peak,
    )
