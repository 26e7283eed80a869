"""Counts a training state in a graph: its constant bytes, and the bytes that gradients have.

In shards (``zero_stage=3``) rank 0 retains ceil(rows / ranks) rows of each parameter, its gradient and the optimizer's state;
``gathered_blocks`` says what is whole for part of the step. Stage 2 retains whole parameters, stage 1 whole gradients too.
Every step reduces its gradients (no ``no_sync``).

The buckets of ``DistributedDataParallel`` are resident from the start and as large as all gradients together. DDP copies the
gradients into them or, with ``gradient_as_bucket_view=True``, keeps them there, and the step's own gradients are freed.

A step that accumulates starts with the existing gradients resident (with views they are in the buckets), and frees each new
gradient once it is added.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

import torch

from remat_planner.planner.training_state.constants import ACCUMULATED, BUCKETS, GATHERED, MASTER
from remat_planner.planner.training_state.dropped_outputs import with_dropped_outputs
from remat_planner.planner.training_state.gathered_blocks import gathered_bytes
from remat_planner.planner.training_state.per_parameter import (
    bucket_bytes,
    gradient_bytes,
    gradient_dtype,
    local_numel,
    master_weight_bytes,
)
from remat_planner.planner.training_state.released_gradients import gradient_values, with_released_gradients
from remat_planner.schedules import Graph, TrainingState
from remat_planner.tracer import Joint
from remat_planner.tracer.costs import rounded_up


def with_training_state(graph: Graph, joint: Joint, training: TrainingState, *, block: int) -> Graph:
    """``graph`` with the constants and gradients of ``training``; the optimizer's own state is not in it.

    ``block`` is the granularity of the allocator in bytes.
    """
    if training == TrainingState():
        return graph
    constants = {**graph.constants, **_constants(joint, training, block)}
    graph = rewired(graph, joint, training)
    return replace(_with_gradient_bytes(graph, joint, training, block), constants=constants)


def rewired(graph: Graph, joint: Joint, training: TrainingState) -> Graph:
    """``graph`` with the lifetimes and storages that outputs and gradients have under ``training``; it changes no bytes."""
    if training.outputs == "dropped":
        graph = with_dropped_outputs(graph, joint)
    if training.releases_gradients:
        graph = with_released_gradients(graph, joint)
        if not training.gradients_in_shards:
            return graph  # gradients are added as they are, whatever dtype they are added to
    parameters = list(_parameters(joint).values())
    owners = {value: parameters[joint.gradients[k].index] for k, value in gradient_values(graph, joint).items()}
    changed = [
        graph.values[value].storage
        for value, parameter in owners.items()
        if training.gradients_in_shards or gradient_dtype(parameter, training) != parameter.dtype
    ]
    return _with_sums_apart(graph, dict.fromkeys(changed))


def _constants(joint: Joint, training: TrainingState, block: int) -> dict[str, int]:
    """The bytes that are resident during the whole step, by their name in ``Graph.constants``."""
    parameters = _parameters(joint)
    constants = {}
    if training.parameters_in_shards:
        shards = (local_numel(p, training) * p.dtype.itemsize for p in parameters.values())
        constants["parameters"] = sum(rounded_up(size, block) for size in shards)
    if training.gradients_in_shards:
        constants[GATHERED] = gathered_bytes(parameters, training)
    if masters := sum(rounded_up(master_weight_bytes(p, training), block) for p in parameters.values()):
        constants[MASTER] = 0 if training.optimizer_offload else masters
    if training.gradient_buckets is not None:
        constants[BUCKETS] = bucket_bytes(parameters.values())
    if training.accumulate and not training.gradients_in_buckets:
        in_order = list(parameters.values())
        trained = [in_order[g.index] for g in joint.gradients if g.owner == "parameter" and g.node is not None]
        constants[ACCUMULATED] = sum(rounded_up(gradient_bytes(p, training), block) for p in trained)
    return constants


def _with_gradient_bytes(graph: Graph, joint: Joint, training: TrainingState, block: int) -> Graph:
    """``graph`` whose gradients have the bytes that the rank retains of them.

    While a gradient is converted to another dtype, it is allocated in both: the op that computes it has the other copy as
    workspace.
    """
    if training.releases_gradients and not training.gradients_in_shards:
        return graph  # gradients are added as they are, whatever dtype they are added to
    parameters = list(_parameters(joint).values())
    producer = {storage: i for i, allocated in enumerate(graph.allocated) for storage in allocated}
    ops, storages = list(graph.ops), list(graph.storages)
    retained: dict[int, int] = defaultdict(int)
    for k, value in gradient_values(graph, joint).items():
        storage = graph.values[value].storage
        if storage not in producer:
            continue
        parameter = parameters[joint.gradients[k].index]
        retained[storage] += rounded_up(gradient_bytes(parameter, training), block)
        if not training.gradients_in_shards and gradient_dtype(parameter, training) != parameter.dtype:
            i, whole = producer[storage], parameter.numel() * parameter.dtype.itemsize
            ops[i] = replace(ops[i], workspace=ops[i].workspace + rounded_up(whole, block))
    for storage, size in retained.items():
        storages[storage] = replace(storages[storage], bytes=size)
    return replace(graph, ops=tuple(ops), storages=tuple(storages))


def _with_sums_apart(graph: Graph, storages: Iterable[int]) -> Graph:
    """``graph`` in which the last sum that is made in place in each of ``storages`` has a storage of its own.

    What the rank retains of such a gradient is another tensor than the one in which autograd adds up the terms.
    """
    values, sizes = list(graph.values), list(graph.storages)
    for storage in storages:
        writers = [i for i, op in enumerate(graph.ops) if any(graph.values[value].storage == storage for value in op.writes)]
        in_place = [i for i in writers if len(graph.ops[i].reads) > 1 and storage not in graph.allocated[i]]
        for value in (value for i in writers if in_place and i >= in_place[-1] for value in graph.ops[i].writes):
            values[value] = replace(values[value], storage=len(sizes))
        if in_place:
            sizes.append(sizes[storage])
    return replace(graph, values=tuple(values), storages=tuple(sizes))


def _parameters(joint: Joint) -> dict[str, torch.Tensor]:
    modules = dict(joint.model.named_modules(remove_duplicate=False))
    return {slot.name: modules[slot.path]._parameters[slot.key] for slot in joint.parameters}
