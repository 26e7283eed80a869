"""Building the ``Graph`` of a joint graph.

A storage is the storage of a fake tensor, so views, in-place results and operators with several outputs need no rules of their
own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from remat_planner.schedules import Graph, Op, Storage, Value
from remat_planner.tracer.garbage import garbage_left
from remat_planner.tracer.joint import Joint, operator_name, tensors_of
from remat_planner.tracer.lower.autograd_nodes import with_eager_lifetimes, with_equal_gradients
from remat_planner.tracer.lower.loss_workspace import loss_workspace
from remat_planner.tracer.lower.lowering import LOSS, Lowering
from remat_planner.tracer.lower.overwriting import with_results_in_place
from remat_planner.tracer.lower.sums_in_place import with_sums_in_place
from remat_planner.tracer.torch_private import storage_key

# Bytes of a random generator's state, which a recomputed draw keeps from its first run: Mersenne Twister on a CPU, seed and
# offset elsewhere.
_GENERATOR_STATE = {"cpu": 5056}
_GENERATOR_STATE_ELSEWHERE = 16


@garbage_left()
def lower(joint: Joint, *, sums_in_place: bool = True) -> Lowering:
    """Lower ``joint``; ops stand in the order in which eager runs them, the loss between forward and backward.

    ``sums_in_place=False`` counts sums of gradients apart from their terms, as early schedule files do.
    """
    builder = _Builder(joint)
    for node in joint.ops:
        if not node.meta["in_backward"]:
            builder.add(node)
    results = [builder.values_of[leaf.node][0] for leaf in joint.outputs if leaf.node is not None]
    results += builder.add_loss()
    for node in joint.ops:
        if node.meta["in_backward"]:
            builder.add(node)
    results += [builder.values_of[gradient.node][0] for gradient in joint.gradients if gradient.node is not None]
    storages = builder.storages
    graph = Graph(
        ops=tuple(builder.ops),
        values=tuple(builder.values),
        storages=tuple(storages),
        results=tuple(dict.fromkeys(v for v in results if not storages[builder.values[v].storage].constant)),
        constants={kind: sum(sizes) for kind, sizes in joint.constants.items()},
    )
    if sums_in_place:
        graph = with_sums_in_place(graph, joint)
    graph = with_equal_gradients(with_eager_lifetimes(graph, joint), joint)
    graph = with_results_in_place(graph, joint)
    return Lowering(graph=graph, joint=joint, node_of={node.meta["name"]: node for node in joint.ops})


@dataclass
class _Builder:
    """The graph so far.

    Attributes:
        values_of: indices of the values that each node produces, one for each of its tensors.
        storage_of: index of each storage, by the key of the fakes' storage.
        eager_bases: the first value in each memory of eager, by its number in ``meta["memory"]``.
    """

    joint: Joint
    ops: list[Op] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    values_of: dict[fx.Node, tuple[int, ...]] = field(default_factory=dict)
    storage_of: dict[int, int] = field(default_factory=dict)
    eager_bases: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        joint = self.joint
        constants = [node for node in joint.graph.graph.nodes if node.op == "get_attr"]
        for node in (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes, *constants):
            tensors = tensors_of(node) or [getattr(joint.graph, str(node.target))]
            self._add_values(node, node.name, tensors, constant=True)

    def add(self, node: fx.Node) -> None:
        """Append the op of ``node``."""
        meta = node.meta
        reads = self._reads(node)
        writes = self._add_values(node, meta["name"], tensors_of(node), constant=False)
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
                inexact=meta.get("inexact", ""),
                in_turn=bool(meta["random"] or meta.get("once") or meta["pinned"]),
            )
        )

    def add_loss(self) -> list[int]:
        """Append the op between forward and backward and return the values of it that stay resident until the step ends.

        The call of ``backward`` holds the gradient that it starts from, the caller holds the loss, and parameters of the loss
        their gradients.
        """
        joint, loss = self.joint, self.joint.loss
        if loss is None:
            read = [joint.outputs[i].node for i in joint.tangent_outputs]
            reason = "the backward starts here, with the gradient of the loss"
        else:
            leaves = [leaf.node for leaf in joint.outputs if leaf.node is not None]
            read = [leaf for leaf, placeholder in zip(leaves, loss.outputs, strict=True) if placeholder.users]
            reason = "the caller's loss"
        tangents: list[int] = []
        for node in joint.tangent_nodes:
            tangents += self._add_values(node, node.name, tensors_of(node), constant=False)
        if loss is None:
            resident = tangents
        else:
            returned: Any = loss.graph.graph.output_node().args[0]
            (scalar,) = self._add_values(returned[0], LOSS, tensors_of(returned[0]), constant=False)
            resident = [scalar, self._add_value_like(scalar, "loss gradient")]
            for node in returned[1 + len(joint.tangent_nodes) :]:
                resident += self._add_values(
                    node, f"{node.name} (gradient of the loss's own)", tensors_of(node), constant=False
                )
        self.ops.append(
            Op(
                name=LOSS,
                reads=tuple(dict.fromkeys(self.values_of[node][0] for node in read if node is not None)),
                writes=tuple(dict.fromkeys((*tangents, *resident))),
                workspace=loss_workspace(loss, {}, 1),
                phase="backward",
                pinned=reason,
                outside=True,
                kind=LOSS,
            )
        )
        return resident

    def _reads(self, node: fx.Node) -> tuple[int, ...]:
        if operator_name(node.target) == "getitem":
            source: Any = node.args[0]
            index: Any = node.args[1]
            values, produced = self.values_of[source], source.meta["val"]
            place = sum(isinstance(t, torch.Tensor) for t in produced[:index])
            return (values[place],) if isinstance(produced[index], torch.Tensor) else values
        return tuple(dict.fromkeys(v for argument in node.all_input_nodes for v in self.values_of[argument]))

    def _add_values(self, node: fx.Node, name: str, tensors: list[torch.Tensor], *, constant: bool) -> tuple[int, ...]:
        """Append a value for each tensor that ``node`` produces, in a new storage where the tensor is no view."""
        first = len(self.values)
        for i, tensor in enumerate(tensors):
            key = storage_key(tensor)
            if key not in self.storage_of:
                self.storage_of[key] = len(self.storages)
                self.storages.append(Storage(0 if constant else tensor.untyped_storage().nbytes(), constant))
            self.values.append(
                Value(
                    name=name if len(tensors) == 1 else f"{name}[{i}]",
                    storage=self.storage_of[key],
                    shape=tuple(tensor.shape),
                    dtype=str(tensor.dtype).removeprefix("torch."),
                    eager_base=self._eager_base(node) if len(tensors) == 1 else None,
                )
            )
        self.values_of[node] = tuple(range(first, len(self.values)))
        return self.values_of[node]

    def _eager_base(self, node: fx.Node) -> int | None:
        """The value in whose memory eager computes the one of ``node``, which is added next."""
        if "memory" not in node.meta:
            return None
        base = self.eager_bases.setdefault(node.meta["memory"], len(self.values))
        return base if base < len(self.values) else None

    def _add_value_like(self, value: int, name: str) -> int:
        """Append a value of the same shape in a storage of its own."""
        like = self.values[value]
        self.storages.append(Storage(self.storages[like.storage].bytes))
        self.values.append(replace(like, name=name, storage=len(self.storages) - 1))
        return len(self.values) - 1


def _replay_bytes(node: fx.Node) -> int:
    device = next((t.device.type for t in tensors_of(node)), "cpu")
    return _GENERATOR_STATE.get(device, _GENERATOR_STATE_ELSEWHERE)
