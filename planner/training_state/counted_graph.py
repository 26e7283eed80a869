"""What a training step holds beside the model itself: gradients of another dtype or from before, master weights, and all of it
in shards or with the optimizer on the host.

A sharded step (``zero_stage=3``) is that of ``torch.distributed.fsdp.fully_shard`` (FSDP2) on every block and on the model, at
rank 0: each parameter, its gradient and the optimizer's state have ceil(rows / N) of the parameter's rows there. What it
gathers is counted for the whole step, at its highest:

- the parameters of the block that runs and of the next one, which is prefetched;
- those outside of any block (embeddings, the head), which ``fully_shard`` does not free after the forward;
- unsharded gradients of the largest block and of what is outside, until they are reduced;
- the flat input of the largest reduce-scatter.

A block is a numbered module that lies in no other ("model.layers.3"). What the communication library takes is not counted.

In stage 2 of ZeRO parameters are whole, and of the above there are only the gradients on their way to their shards; in stage 1
gradients are whole too, and nothing but the optimizer's state and the master weights is divided.

``DistributedDataParallel`` has buckets as large as all gradients together, from the start. It copies the gradients into them,
or, with ``gradient_as_bucket_view=True``, keeps them there: what the backward makes is then let go once it is handed over.

A step that accumulates adds its gradients to those of the steps before. These are there from its beginning (in buckets with
views nowhere else), and each new gradient is beside them from when it is made to when it is added, which the applied model does
at once. In shards every step reduces its gradients (no ``no_sync``).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from itertools import pairwise

import torch

from remat_planner.planner.training_state.options import (
    ACCUMULATED,
    AS_THE_MODEL,
    BUCKETS,
    GATHERED,
    MASTER,
    VIEWS,
    TrainingState,
    bucket_bytes,
    lets_go_of_gradients,
)
from remat_planner.schedules import Graph
from remat_planner.tracer import Joint
from remat_planner.tracer.costs import rounded_up


def with_training_state(graph: Graph, joint: Joint, state: TrainingState, *, block: int) -> Graph:
    """``graph`` with the constants and gradients that ``state`` means.

    A gradient of another dtype than its parameter's is there in both while it is converted, and one that is kept in a bucket
    until it is copied there. Memory is handed out in multiples of ``block`` bytes.
    """
    if state == AS_THE_MODEL:
        return graph
    parameters = _parameters(joint)
    constants = dict(graph.constants)
    if state.shard > 1 and state.zero_stage == 3:
        constants["parameters"] = sum(rounded_up(state.local_numel(p) * p.dtype.itemsize, block) for p in parameters.values())
    if state.gradients_in_shards:
        constants[GATHERED] = _gathered_bytes(parameters, state)
    if masters := sum(rounded_up(4 * state.local_numel(p), block) for p in parameters.values() if state.has_master(p)):
        constants[MASTER] = 0 if state.optimizer_offload else masters
    if state.gradient_buckets is not None:
        constants[BUCKETS] = bucket_bytes(parameters.values())
    if state.accumulate and state.gradient_buckets != VIEWS:
        of = list(parameters.values())
        trained = [of[g.index] for g in joint.gradients if g.owner == "parameter" and g.node is not None]
        constants[ACCUMULATED] = sum(rounded_up(state.gradient_bytes(p), block) for p in trained)
    if lets_go_of_gradients(state.accumulate, state.gradient_buckets):
        graph = without_gradients(graph, joint)
    return replace(_with_gradients(graph, joint, state, block), constants=constants)


def without_gradients(graph: Graph, joint: Joint) -> Graph:
    """``graph`` in which the parameters' gradients do not outlive the step: each is added to another one, or copied into a
    bucket, as soon as it is made and those are that eager hands over before it. So long the order makes it wait among several
    processes, and the op that it waits for reads it here.
    """
    values = _gradient_values(graph, joint)
    added = set(values.values())
    names = [gradient.node.meta.get("name", "") if gradient.node is not None else "" for gradient in joint.gradients]
    waiting: dict[int, list[int]] = defaultdict(list)
    latest = -1
    for k in joint.arrivals:
        made = graph.by_name.get(names[k], -1)
        latest = max(latest, made)
        if k in values and made < latest:
            waiting[latest].append(values[k])
    return replace(
        graph,
        ops=tuple(
            replace(op, reads=tuple(dict.fromkeys((*op.reads, *waiting[i])))) if i in waiting else op
            for i, op in enumerate(graph.ops)
        ),
        results=tuple(value for value in graph.results if value not in added),
    )


def _gradient_values(graph: Graph, joint: Joint) -> dict[int, int]:
    """The value of each parameter's gradient, by its place among the joint graph's gradients."""
    found = {}
    for k, gradient in enumerate(joint.gradients):
        name = gradient.node.meta.get("name", "") if gradient.node is not None else ""
        if gradient.owner == "parameter" and name in graph.by_name:
            found[k] = graph.ops[graph.by_name[name]].writes[0]
    return found


def added_gradients(graph: Graph, joint: Joint) -> frozenset[int]:
    """Which of the joint graph's gradients ``graph`` does not keep: they are added to others, or copied, when they are made."""
    results = set(graph.results)
    return frozenset(k for k, value in _gradient_values(graph, joint).items() if value not in results)


def _parameters(joint: Joint) -> dict[str, torch.Tensor]:
    modules = dict(joint.model.named_modules(remove_duplicate=False))
    return {slot.name: modules[slot.path]._parameters[slot.key] for slot in joint.parameters}


def _with_gradients(graph: Graph, joint: Joint, state: TrainingState, block: int) -> Graph:
    parameters = list(_parameters(joint).values())
    maker = {storage: i for i, made in enumerate(graph.allocated) for storage in made}
    ops, storages = list(graph.ops), list(graph.storages)
    kept: dict[int, int] = defaultdict(int)
    for k, value in _gradient_values(graph, joint).items():
        storage = graph.values[value].storage
        if storage not in maker:
            continue
        parameter = parameters[joint.gradients[k].index]
        if lets_go_of_gradients(state.accumulate, state.gradient_buckets) and not state.gradients_in_shards:
            continue  # added as it is, whatever the dtype of what it is added to
        dtype = state.gradient_dtype_of(parameter)
        kept[storage] += rounded_up(state.gradient_bytes(parameter), block)
        if not state.gradients_in_shards and dtype != parameter.dtype:
            op, whole = maker[storage], parameter.numel() * parameter.dtype.itemsize
            ops[op] = replace(ops[op], workspace=ops[op].workspace + rounded_up(whole, block))
    for storage, size in kept.items():
        storages[storage] = replace(storages[storage], bytes=size)
    return replace(graph, ops=tuple(ops), storages=tuple(storages))


def _gathered_bytes(parameters: dict[str, torch.Tensor], state: TrainingState) -> int:
    """What is whole for a while in a step whose gradients go to shards."""
    whole: dict[str, int] = defaultdict(int)
    gradients: dict[str, int] = defaultdict(int)
    reduced: dict[str, int] = defaultdict(int)
    for name, parameter in parameters.items():
        block = _block(name)
        whole[block] += parameter.numel() * parameter.dtype.itemsize
        if parameter.requires_grad:
            gradients[block] += parameter.numel() * parameter.dtype.itemsize
            reduced[block] += parameter.numel() * state.gradient_dtype_of(parameter).itemsize
    outside, outside_gradients = whole.pop("", 0), gradients.pop("", 0)
    on_their_way = outside_gradients + max(gradients.values(), default=0) + max(reduced.values(), default=0)
    if state.zero_stage < 3:
        return on_their_way
    running = max((a + b for a, b in pairwise([*whole.values(), 0])), default=0)
    return outside + running + on_their_way


def _block(name: str) -> str:
    """The path of the outermost numbered module that the parameter lies in, or "" where there is none."""
    parts = name.split(".")[:-1]
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])
