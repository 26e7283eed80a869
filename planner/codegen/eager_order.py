"""Checks that a schedule keeps the order of side effects that eager has: random draws, and updates of buffers and inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from remat_planner.planner.codegen.executions import Instance
from remat_planner.planner.torch_private import writes_to_argument
from remat_planner.schedules import Graph, InvalidScheduleError


class EagerOrder:
    """Follows the executions of a schedule on ``graph`` and refuses an order that would change bits.

    ``instances`` is the list to which the caller adds while it goes; ``reads`` below maps arguments to indices into it.
    """

    def __init__(self, graph: Graph, instances: Sequence[Instance]) -> None:
        self._graph = graph
        self._instances = instances
        self._last_stateful = -1
        self._updates: dict[int, int] = {}  # family of a source -> index of the last op that has updated it

    def check_first_execution(self, step: int, index: int, node: fx.Node) -> None:
        """Require the graph's order of ops that draw random numbers or update tensors, where ``node`` is one.

        Raises:
            InvalidScheduleError: a later op of this kind has run already.
        """
        stateful = (
            node.meta.get("random")
            or node.meta.get("once")
            or any(writes_to_argument(node, position) for position in range(len(node.args)))
        )
        if not stateful:
            return
        if index < self._last_stateful:
            later = self._graph.ops[self._last_stateful].name
            raise InvalidScheduleError(
                f"step {step} runs {node.meta['name']!r} for the first time after {later!r}: ops that draw random numbers or "
                "update buffers must first run in the graph's order, or the bits differ",
                step=step,
                op=node.meta["name"],
            )
        self._last_stateful = index

    def check_reads(self, step: int, index: int, node: fx.Node, reads: Mapping[fx.Node, int], omitted: tuple[int, ...]) -> None:
        """Require that ``node`` reads no buffer or input after an update that eager makes later.

        Raises:
            InvalidScheduleError: it does.
        """
        if not self._updates:
            return
        passed = {argument for position, argument in enumerate(node.args) if position not in omitted} | set(
            node.kwargs.values()
        )
        for argument, instance in reads.items():
            writer = self._updates.get(self._instances[instance].family, -1)
            if writer > index and argument in passed:
                raise InvalidScheduleError(
                    f"step {step} runs {node.meta['name']!r} after {self._graph.ops[writer].name!r} has updated a tensor that "
                    "it reads; eager reads it before the update",
                    step=step,
                    op=node.meta["name"],
                )

    def record_updates(self, index: int, node: fx.Node, reads: Mapping[fx.Node, int]) -> None:
        """Note the tensors that ``node`` updates in place."""
        for position, argument in enumerate(node.args):
            if isinstance(argument, fx.Node) and writes_to_argument(node, position):
                self._updates[self._instances[reads[argument]].family] = index
