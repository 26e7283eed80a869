"""From the joint graph to the language of schedules: ops, values, the storages they live in.

A storage is the storage of a fake tensor, so views, in-place results and multi-output operators need no rules of their own.
What the caller does between forward and backward, computing the loss and starting the backward, is one op named "loss".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import fx

from remat_planner.schedules import Graph, Op, Storage, Value
from remat_planner.tracer.costs import rounded_up
from remat_planner.tracer.joint import CapturedLoss, Joint, operator_name, tensors_of
from remat_planner.tracer.torch_private import storage_key

LOSS = "loss"
# Bytes of a random generator's state: what a recomputed draw keeps from its first run (seed and offset on an accelerator).
_GENERATOR_STATE = {"cpu": 5056}
_GENERATOR_STATE_ELSEWHERE = 16


class NodeCost(Protocol):
    """What one run of a node takes.

    Attributes:
        seconds: time on the device.
        workspace: bytes beyond its arguments and results while it runs.
        flops: floating point operations.
        allocates: bytes of each storage that its results make, in the order of the results; fake tensors get a few wrong.
    """

    @property
    def seconds(self) -> float: ...
    @property
    def workspace(self) -> int: ...
    @property
    def flops(self) -> int: ...
    @property
    def allocates(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Lowering:
    """A joint graph as a ``Graph``, without costs, and the way back.

    Attributes:
        graph: seconds, workspace and FLOPs of every op are 0 (``with_costs`` fills them in), but for what the caller's loss
            holds inside.
        joint: what it was made from.
        node_of: the node behind each op, by op name; the loss op has none.
    """

    graph: Graph
    joint: Joint
    node_of: Mapping[str, fx.Node]

    @property
    def loss_nodes(self) -> tuple[fx.Node, ...]:
        """The caller's loss, operator by operator (calls only); empty where the model computes its own."""
        loss = self.joint.loss
        return () if loss is None else tuple(n for n in (*loss.forward, *loss.backward) if n.op == "call_function")

    def with_costs(self, costs: Mapping[fx.Node, NodeCost], *, block: int = 1) -> Graph:
        """The graph with the costs of ``node_of`` and ``loss_nodes``; the loss op has the sum of its own.

        ``block`` is what the device's allocator hands memory out in: all that is counted is a multiple of so many bytes.

        Raises:
            KeyError: a node has no cost.
        """
        ops, storages = [], [replace(s, bytes=rounded_up(s.bytes, block)) for s in self.graph.storages]
        for op, made in zip(self.graph.ops, self.graph.allocated, strict=True):
            if op.name in self.node_of:
                cost = costs[self.node_of[op.name]]
                # A draw that is replayed puts the generator's present state aside meanwhile.
                workspace = rounded_up(cost.workspace, block) + op.replay_bytes
                ops.append(replace(op, seconds=cost.seconds, workspace=workspace, flops=cost.flops))
                if len(made) == len(cost.allocates):
                    for storage, size in zip(made, cost.allocates, strict=True):
                        storages[storage] = replace(storages[storage], bytes=rounded_up(size, block))
            else:
                own = [costs[node] for node in self.loss_nodes]
                workspace = _loss_workspace(self.joint.loss, {node: costs[node].workspace for node in self.loss_nodes}, block)
                seconds, flops = sum(cost.seconds for cost in own), sum(cost.flops for cost in own)
                ops.append(replace(op, seconds=seconds, workspace=workspace, flops=flops))
                for storage, size in self._loss_allocates(op, costs):
                    storages[storage] = replace(storages[storage], bytes=rounded_up(size, block))
        constants = {kind: sum(rounded_up(size, block) for size in sizes) for kind, sizes in self.joint.constants.items()}
        return replace(self.graph, ops=tuple(ops), storages=tuple(storages), constants=constants)

    def _loss_allocates(self, op: Op, costs: Mapping[fx.Node, NodeCost]) -> list[tuple[int, int]]:
        """The storage of the caller's loss with the bytes found: some kernels reduce a full tensor in its own place."""
        if self.joint.loss is None:
            return []
        returned: Any = self.joint.loss.graph.graph.output_node().args[0]
        allocates = costs[returned[0]].allocates if returned[0] in costs else ()
        stored = [self.graph.values[v].storage for v in op.writes if self.graph.values[v].name == LOSS]
        return list(zip(stored, allocates, strict=False)) if len(allocates) == 1 else []


def lower(joint: Joint) -> Lowering:
    """Lower ``joint``; ops stand in the order in which eager runs them, the loss between forward and backward."""
    builder = _Builder(joint)
    before = [node for node in joint.ops if not node.meta["in_backward"]]
    after = [node for node in joint.ops if node.meta["in_backward"]]
    for node in before:
        builder.add(node)
    results = [builder.value[leaf.node][0] for leaf in joint.outputs if leaf.node is not None]
    results += builder.add_loss()
    for node in after:
        builder.add(node)
    results += [builder.value[gradient.node][0] for gradient in joint.gradients if gradient.node is not None]
    storages = builder.storages
    graph = Graph(
        ops=tuple(builder.ops),
        values=tuple(builder.values),
        storages=tuple(storages),
        results=tuple(dict.fromkeys(v for v in results if not storages[builder.values[v].storage].constant)),
        constants={kind: sum(sizes) for kind, sizes in joint.constants.items()},
    )
    return Lowering(graph=graph, joint=joint, node_of={node.meta["name"]: node for node in joint.ops})


@dataclass
class _Builder:
    joint: Joint
    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    value: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)  # one per tensor that the node produces
    storage_of: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        joint = self.joint
        constants = [node for node in joint.graph.graph.nodes if node.op == "get_attr"]
        for node in (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes, *constants):
            tensors = tensors_of(node) or [getattr(joint.graph, str(node.target))]
            self._new_values(node, node.name, tensors, constant=True)

    def add(self, node: fx.Node) -> None:
        """Append the op that ``node`` is."""
        meta = node.meta
        reads = self._reads(node)
        writes = self._new_values(node, meta["name"], tensors_of(node), constant=False)
        self.ops.append(
            Op(
                name=meta["name"],
                reads=reads,
                writes=writes,
                phase=meta["phase"],
                pinned=meta["pinned"],
                auxiliary=meta["auxiliary"],
                replay_bytes=_replay_bytes(node) if meta["random"] else 0,
                kind=operator_name(node.target),
                module=meta["module"],
                source=meta["source"],
            )
        )

    def add_loss(self) -> list[int]:
        """Append the op between forward and backward; the values that the caller holds of it."""
        joint, loss = self.joint, self.joint.loss
        leaves = [leaf.node for leaf in joint.outputs if leaf.node is not None]
        if loss is None:
            read = [joint.outputs[i].node for i in joint.tangent_outputs]
            reason = "the backward starts here, with the gradient of the loss"
        else:
            read = [leaf for leaf, placeholder in zip(leaves, loss.outputs, strict=True) if placeholder.users]
            reason = "the caller's loss"
        writes: list[int] = []
        for node in joint.tangent_nodes:
            writes += self._new_values(node, node.name, tensors_of(node), constant=False)
        held = list(writes) if loss is None else []  # the call of backward holds on to the gradient that it starts from
        if loss is not None:
            returned: Any = loss.graph.graph.output_node().args[0]
            scalar = returned[0]
            held += self._new_values(scalar, LOSS, tensors_of(scalar), constant=False)
            held.append(self._new_value_like(held[0], "loss gradient"))
        self.ops.append(
            Op(
                name=LOSS,
                reads=tuple(dict.fromkeys(self.value[node][0] for node in read if node is not None)),
                writes=tuple(dict.fromkeys((*writes, *held))),
                workspace=_loss_workspace(loss, {}, 1),
                phase="backward",
                pinned=reason,
                outside=True,
                kind=LOSS,
            )
        )
        return held

    def _new_value_like(self, value: int, name: str) -> int:
        """Another tensor of the same form in a storage of its own."""
        like = self.values[value]
        self.storages.append(Storage(self.storages[like.storage].bytes))
        self.values.append(replace(like, name=name, storage=len(self.storages) - 1))
        return len(self.values) - 1

    def _reads(self, node: fx.Node) -> tuple[int, ...]:
        if operator_name(node.target) == "getitem":
            source: Any = node.args[0]
            index: Any = node.args[1]
            values, produced = self.value[source], source.meta["val"]
            place = sum(isinstance(t, torch.Tensor) for t in produced[:index])
            return (values[place],) if isinstance(produced[index], torch.Tensor) else values
        return tuple(dict.fromkeys(v for argument in node.all_input_nodes for v in self.value[argument]))

    def _new_values(self, node: fx.Node, name: str, tensors: list[torch.Tensor], *, constant: bool) -> tuple[int, ...]:
        made = []
        for i, tensor in enumerate(tensors):
            key = storage_key(tensor)
            if key not in self.storage_of:
                self.storage_of[key] = len(self.storages)
                self.storages.append(Storage(0 if constant else tensor.untyped_storage().nbytes(), constant))
            made.append(len(self.values))
            self.values.append(
                Value(
                    name=name if len(tensors) == 1 else f"{name}[{i}]",
                    storage=self.storage_of[key],
                    shape=tuple(tensor.shape),
                    dtype=str(tensor.dtype).removeprefix("torch."),
                )
            )
        self.value[node] = tuple(made)
        return tuple(made)


def _replay_bytes(node: fx.Node) -> int:
    device = next((t.device.type for t in tensors_of(node)), "cpu")
    return _GENERATOR_STATE.get(device, _GENERATOR_STATE_ELSEWHERE)


def _loss_workspace(loss: CapturedLoss | None, workspaces: Mapping[fx.Node, int], block: int) -> int:
    """Highest bytes of the caller's loss, beyond the outputs it reads and the gradients and loss that it leaves."""
    if loss is None:
        return 0
    in_operator: dict[int, int] = defaultdict(int)
    for node, workspace in workspaces.items():
        if "operator" in node.meta:
            in_operator[node.meta["operator"]] += rounded_up(workspace, block)
    change: dict[int, int] = defaultdict(int)
    for made in loss.lifetimes:
        change[made.first] += rounded_up(made.bytes, block)
        if not made.stays:
            change[made.last + 1] -= rounded_up(made.bytes, block)
    last = max((*in_operator, *change), default=-1)
    live = accumulate(change[k] for k in range(last + 1))
    left = sum(rounded_up(made.bytes, block) for made in loss.lifetimes if made.stays)
    return max((held + in_operator[k] - left for k, held in enumerate(live)), default=0)
