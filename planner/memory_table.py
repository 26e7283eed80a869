"""The bytes of a training step in the usual combinations of precision, sharding and place of the optimizer: ``plan memory``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from remat_planner.planner.errors import OptimizerError
from remat_planner.planner.planning import Loss, Settings, settings_for, trace_step, with_settings
from remat_planner.planner.reports import ACTIVATIONS, GRADIENTS, memory_at_peak, storage_kinds
from remat_planner.planner.training_state import ACCUMULATED, EIGHT_BIT, GATHERED, MASTER
from remat_planner.schedules import Graph, Schedule, TrainingState, TrainingStateError
from remat_planner.tracer import CaptureError
from remat_planner.tracer.joint import map_tensors
from remat_planner.tracer.record import swapped

_MIXED = "bfloat16, master weights"


@dataclass(frozen=True)
class Combination:
    """One way to train.

    Attributes:
        name: in words.
        dtype: of parameters, floating-point buffers and inputs.
        options: the ``optimizer``, and the fields of ``TrainingState`` that this combination sets.
    """

    name: str
    dtype: torch.dtype
    options: Mapping[str, Any]


@dataclass(frozen=True)
class MemoryRow:
    """The bytes of one combination, as ``remat_planner.plan`` predicts them without recomputation.

    Attributes:
        parameters, master_weights, optimizer: resident throughout.
        gathered: resident throughout for what shards need whole for a while.
        gradients: when the backward is over.
        activations: at the peak.
        peak: of the whole step.
        frees: how much lower the peak is than that of the first row; negative where it is higher.
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
class MemoryTable:
    """The rows, and for each combination without one the reason."""

    rows: tuple[MemoryRow, ...]
    left_out: Mapping[str, str]


def memory_table(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    loss: Loss | None = None,
    costs: str = "measure",
    optimizer: str = "adamw",
    ranks: int = 8,
    trying: Callable[[str], None] = lambda _: None,
) -> MemoryTable:
    """Predict the bytes of each combination for this model, which is left as it was.

    Args:
        model, args, kwargs, loss, costs: as in ``remat_planner.plan``.
        optimizer: name of the optimizer that trains, with its settings.
        ranks: number of ranks for the stages of ZeRO.
        trying: called with each dtype before the step is captured in it.

    Raises:
        OptimizerError: the optimizer's bytes are unknown.
        TrainingStateError: ``ranks`` is not a number of ranks.
        tracer.CaptureError: the step cannot be captured in float32.
    """
    TrainingState(shard=ranks)  # checks the number
    rows: list[MemoryRow] = []
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
                    training = TrainingState(**{field: value for field, value in options.items() if field != "optimizer"})
                    settings = settings_for(model, loss=loss, costs=costs, optimizer=options["optimizer"], training=training)
                except (OptimizerError, TrainingStateError) as error:
                    if not rows:
                        raise
                    left_out[name] = str(error)
                    continue
                graph = with_settings(step.graph, step.joint, settings, block=step.origin.allocation_block)
                rows.append(_row(Combination(name, dtype, options), graph, rows[0].peak if rows else None))
    return MemoryTable(tuple(rows), left_out)


def _usual(optimizer: str, ranks: int) -> dict[torch.dtype, dict[str, dict[str, Any]]]:
    """The ``options`` of each combination by its name, by the dtype of the model."""
    plain: dict[str, Any] = {"optimizer": optimizer}
    name, _, arguments = optimizer.partition(":")
    eight_bit = name if name.lower().endswith(EIGHT_BIT) else name + EIGHT_BIT
    mixed = plain | {"master_weights": True}
    usual: dict[str, dict[str, Any]] = {
        "bfloat16": plain,
        f"bfloat16, {eight_bit}": {"optimizer": f"{eight_bit}:{arguments}" if arguments else eight_bit},
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
    return {torch.float32: {"float32": plain, "float32, accumulating": plain | {"accumulate": True}}, torch.bfloat16: usual}


def _in_dtype(model: nn.Module, dtype: torch.dtype) -> dict[int, torch.Tensor]:
    """The parameters and buffers of ``model.to(dtype)`` by the id of those that they replace."""
    replaced = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point() and t.dtype != dtype]
    copies = [t.detach().to(dtype) for t in replaced]
    return {
        id(t): nn.Parameter(copy, t.requires_grad) if isinstance(t, nn.Parameter) else copy
        for t, copy in zip(replaced, copies, strict=True)
    }


def _inputs_in(dtype: torch.dtype, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def cast(leaf: torch.Tensor) -> torch.Tensor:
        if not leaf.is_floating_point():
            return leaf
        return leaf.detach().to(dtype).requires_grad_(leaf.requires_grad)

    inputs: tuple[tuple[Any, ...], dict[str, Any]] = map_tensors(cast, (tuple(args), dict(kwargs)))
    return inputs


def _row(combination: Combination, graph: Graph, first_peak: int | None) -> MemoryRow:
    unplanned = tuple(range(len(graph.ops)))
    schedule = Schedule(graph.eager, unplanned, budget=0, solver="none", status="feasible", bound_seconds=0.0)
    peak = schedule.peak_bytes
    return MemoryRow(
        combination=combination,
        parameters=graph.constants["parameters"],
        gradients=_gradient_bytes(graph),
        master_weights=graph.constants.get(MASTER, 0),
        optimizer=graph.constants["optimizer"],
        gathered=graph.constants.get(GATHERED, 0),
        activations=memory_at_peak(schedule).get(ACTIVATIONS, 0),
        peak=peak,
        frees=0 if first_peak is None else first_peak - peak,
    )


def _gradient_bytes(graph: Graph) -> int:
    """Bytes of the gradients that are resident when the backward is over."""
    kinds = storage_kinds(graph)
    results = {graph.values[value].storage for value in graph.results}
    new = sum(graph.storages[storage].bytes for storage in results if kinds.get(storage) == GRADIENTS)
    return new + graph.constants.get(ACCUMULATED, 0)
