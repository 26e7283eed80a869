"""A lowered joint graph: the ``Graph``, the way back to the nodes, and filling in the costs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import fx

from remat_planner.schedules import Graph, Op
from remat_planner.tracer.costs import rounded_up
from remat_planner.tracer.joint import Joint
from remat_planner.tracer.lower.loss_workspace import loss_workspace

LOSS = "loss"
"""Name of the op for all that the caller does between forward and backward."""


class NodeCost(Protocol):
    """The cost of one run of a node.

    Attributes:
        seconds: time on the device.
        workspace: bytes beyond its arguments and results while it runs.
        flops: floating point operations.
        allocates: bytes of each storage that it allocates for its results, in their order; for a few operators they differ
            from those of the fake tensors, which are then wrong.
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
    """A joint graph as a ``Graph`` without costs.

    Attributes:
        graph: seconds and FLOPs of every op are 0 (``with_costs`` fills them in), and so is the workspace, except that of the
            loss op.
        joint: the joint graph.
        node_of: the node behind each op, by op name; the loss op has none.
    """

    graph: Graph
    joint: Joint
    node_of: Mapping[str, fx.Node]

    @property
    def loss_nodes(self) -> tuple[fx.Node, ...]:
        """The operator calls of the caller's loss; empty where the caller passes none."""
        loss = self.joint.loss
        return () if loss is None else tuple(n for n in (*loss.forward, *loss.backward) if n.op == "call_function")

    @property
    def costed(self) -> tuple[fx.Node, ...]:
        """All nodes whose costs count. One that overwrites its input counts as the node in its place."""
        own = (node for node in self.node_of.values() if "over" not in node.meta)
        return (*own, *self.wholes, *self.loss_nodes)

    @property
    def wholes(self) -> tuple[fx.Node, ...]:
        """The nodes in whose place others stand; they are costed too."""
        return tuple(dict.fromkeys(whole for node in self.node_of.values() for whole in node.meta.get("wholes", ())))

    def with_costs(self, costs: Mapping[fx.Node, NodeCost], *, block: int = 1) -> Graph:
        """The graph with the costs of ``costed``; the loss op gets the sum of those of ``loss_nodes``.

        Args:
            costs: the cost of each node of ``costed``.
            block: granularity of the device's allocator; every size becomes a multiple of this many bytes.

        Raises:
            KeyError: a node has no cost.
        """
        ops: list[Op] = []
        measured: dict[int, int] = {}  # storage -> bytes
        for op, allocated in zip(self.graph.ops, self.graph.allocated, strict=True):
            if op.name in self.node_of:
                node = self.node_of[op.name]
                cost = costs[node.meta["wholes"][0] if "over" in node.meta else node]
                # A repeated draw sets the generator's current state aside meanwhile.
                workspace = rounded_up(cost.workspace, block) + op.replay_bytes
                eager = rounded_up(op.eager_workspace, block)
                ops.append(replace(op, seconds=cost.seconds, workspace=workspace, flops=cost.flops, eager_workspace=eager))
                if len(allocated) == len(cost.allocates):
                    measured.update(zip(allocated, cost.allocates, strict=True))
            else:
                ops.append(self._loss_with_costs(op, costs, block))
                measured.update(self._measured_loss_storage(op, costs))
        storages = (
            replace(storage, bytes=rounded_up(measured.get(i, storage.bytes), block))
            for i, storage in enumerate(self.graph.storages)
        )
        constants = {kind: sum(rounded_up(size, block) for size in sizes) for kind, sizes in self.joint.constants.items()}
        ops = self._with_extra_seconds(ops, costs)
        return replace(self.graph, ops=tuple(ops), storages=tuple(storages), constants=constants)

    def _with_extra_seconds(self, ops: Sequence[Op], costs: Mapping[fx.Node, NodeCost]) -> list[Op]:
        """``ops``, where those in the place of others say how much longer they take than those; they take no less.

        A node that is two ops is counted with the second.
        """
        wholes = {name: node.meta["wholes"] for name, node in self.node_of.items() if "wholes" in node.meta}
        left = Counter(whole for row in wholes.values() for whole in row)
        spent: dict[fx.Node, float] = defaultdict(float)
        changed = []
        for op in ops:
            in_eager, earlier, waits = 0.0, 0.0, op.name in wholes
            for whole in wholes.get(op.name, ()):
                left[whole] -= 1
                waits = waits and left[whole] > 0
                in_eager += costs[whole].seconds
                earlier += spent[whole]
                spent[whole] += min(op.seconds, costs[whole].seconds)
            if op.name not in wholes:
                changed.append(op)
                continue
            if waits:  # a part takes no longer than the whole; measured alone it may seem to
                changed.append(replace(op, seconds=min(op.seconds, in_eager)))
                continue
            seconds = max(op.seconds, in_eager - earlier)
            changed.append(replace(op, seconds=seconds, extra_seconds=min(seconds, max(0.0, earlier + seconds - in_eager))))
        return changed

    def _loss_with_costs(self, op: Op, costs: Mapping[fx.Node, NodeCost], block: int) -> Op:
        of_nodes = {node: costs[node] for node in self.loss_nodes}
        return replace(
            op,
            seconds=sum(cost.seconds for cost in of_nodes.values()),
            workspace=loss_workspace(self.joint.loss, {node: cost.workspace for node, cost in of_nodes.items()}, block),
            flops=sum(cost.flops for cost in of_nodes.values()),
        )

    def _measured_loss_storage(self, op: Op, costs: Mapping[fx.Node, NodeCost]) -> dict[int, int]:
        """The storage of the caller's loss with its measured bytes: some kernels reduce a full tensor in its own place."""
        if self.joint.loss is None:
            return {}
        returned: Any = self.joint.loss.graph.graph.output_node().args[0]
        allocates = costs[returned[0]].allocates if returned[0] in costs else ()
        stored = [self.graph.values[v].storage for v in op.writes if self.graph.values[v].name == LOSS]
        return dict(zip(stored, allocates, strict=False)) if len(allocates) == 1 else {}
