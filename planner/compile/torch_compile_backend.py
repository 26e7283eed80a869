"""A backend for ``torch.compile`` that saves for the backward what a schedule retains."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from remat_planner.planner.compile.compilers import check_compiler
from remat_planner.planner.compile.graph_alignment import retained_nodes
from remat_planner.planner.errors import SavedSetError
from remat_planner.planner.torch_private import ahead_of_time, compiled_by_inductor, min_cut_partition
from remat_planner.schedules import Schedule


@dataclass(frozen=True)
class SavedSet:
    """What ``torch.compile`` saves between forward and backward, in bytes, beside what the schedule retains.

    Parameters and inputs do not count, because they are resident anyway.

    Attributes:
        kept_bytes: what the schedule retains.
        honoured_bytes: as much of it as is saved, by the schedule's sizes.
        saved_bytes: all that is saved, by its own sizes (a dropout's mask is saved as booleans).
        beyond_plan: names of nodes that are saved and not retained by the schedule: results of operators that may draw random
            numbers or update running statistics, which ``torch.compile`` does not repeat.
        not_needed: names of nodes that the schedule retains and that are not saved, because the backward needs others only.
    """

    kept_bytes: int
    honoured_bytes: int
    saved_bytes: int
    beyond_plan: tuple[str, ...]
    not_needed: tuple[str, ...]


class ScheduleBackend:
    """``torch.compile(model, backend=ScheduleBackend(schedule))``: the schedule's choice, by the compiler's partitioner.

    The partitioner is told what to save and what to recompute, but cannot be told when or how often to recompute. So the
    schedule's peak and budget are not promised. The gradients are those of ``torch.compile``.

    Args:
        schedule: of the whole model.
        compiler: "inductor" to compile both graphs; None to run them by PyTorch's own kernels, as "aot_eager" does.

    Attributes:
        saved: what was saved; None until the first call of the model compiles it.

    Raises:
        SavedSetError: ``schedule`` is by regions.
        CompilerError: the compiler is unknown.
    """

    def __init__(self, schedule: Schedule, *, compiler: str | None = None) -> None:
        if not isinstance(schedule, Schedule):
            raise SavedSetError(
                f"a {type(schedule).__name__} has one schedule for each block: pass the schedule of a whole model, planned "
                "without regions",
                ops=(),
            )
        if schedule.graph.pools:
            raise SavedSetError(
                "torch.compile decides itself when the backward runs, so it cannot copy activations to a pool and back: plan "
                "without pools, or use remat_planner.apply_schedule",
                ops=(),
            )
        if compiler is not None:
            check_compiler(compiler, ())
        self.schedule = schedule
        self.compiler = compiler
        self.saved: SavedSet | None = None

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        """Compile a graph; ``torch.compile`` calls it.

        Raises:
            SavedSetError: the graph is not the schedule's step. ``torch.compile`` wraps this error in one of its own.
            CompilerError: the compiler cannot be used here. Wrapped too.
        """
        if self.compiler is None:
            return ahead_of_time(self._partition, None)(module, inputs)
        check_compiler(self.compiler, [value for value in inputs if isinstance(value, torch.Tensor)])
        return ahead_of_time(self._partition, compiled_by_inductor)(module, inputs)

    def _partition(self, joint: fx.GraphModule, inputs: Any, **settings: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
        _refuse_symbolic(joint.graph)
        forward = _forward_nodes(joint.graph)
        retained = retained_nodes(self.schedule, forward)
        _mark(joint.graph, forward, retained)
        sizes = {node.name: size for node, size in retained.items()}  # the partition replaces the nodes, not their names
        graphs = min_cut_partition(joint, inputs, settings)
        saved = _saved_by(graphs[0], settings["num_fwd_outputs"])
        self.saved = SavedSet(
            kept_bytes=sum(sizes.values()),
            honoured_bytes=sum(size for name, size in sizes.items() if name in saved),
            saved_bytes=sum(saved.values()),
            beyond_plan=tuple(name for name in saved if name not in sizes),
            not_needed=tuple(name for name in sizes if name not in saved),
        )
        return graphs


def _mark(graph: fx.Graph, forward: Sequence[fx.Node], retained: dict[fx.Node, int]) -> None:
    """Tell the partitioner, node by node, what to save and what to recompute."""
    inside = set(forward)
    backward_results = [node for node in graph.output_node().all_input_nodes if node not in inside]
    saved = _needed(backward_results, inside, retained)
    for node in forward:
        if node in saved:
            node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
        elif not _is_of_unrepeatable(node):
            node.meta["recompute"] = CheckpointPolicy.MUST_RECOMPUTE
        else:
            node.meta.pop("recompute", None)  # set by a torch.utils.checkpoint in the model


def _refuse_symbolic(graph: fx.Graph) -> None:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) or (
            isinstance(value, torch.Tensor) and not all(isinstance(size, int) for size in value.shape)
        ):
            raise SavedSetError(
                "torch.compile captured the model for shapes that may change, and a schedule holds only for the planned ones: "
                "torch.compile(model, backend=..., dynamic=False)",
                ops=(),
            )


def _is_of_unrepeatable(node: fx.Node) -> bool:
    return _is_unrepeatable(node) or (node.target is operator.getitem and any(map(_is_unrepeatable, node.all_input_nodes)))


def _is_unrepeatable(node: fx.Node) -> bool:
    """Whether the partitioner could not repeat it: it would draw anew, or read statistics that have been updated by then."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    updates = target is torch.ops.aten._native_batch_norm_legit_functional.default
    return updates or torch.Tag.nondeterministic_seeded in target.tags


def _forward_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The operators that do not depend on incoming gradients, in order."""
    dependent = {node for node in graph.nodes if node.op == "placeholder" and "tangents" in node.name}
    forward = []
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if any(argument in dependent for argument in node.all_input_nodes):
            dependent.add(node)
        else:
            forward.append(node)
    return forward


def _needed(results: list[fx.Node], forward: set[fx.Node], retained: dict[fx.Node, int]) -> set[fx.Node]:
    """The nodes to save so that ``results`` follow from them, from parameters and from inputs: retained ones, and draws."""
    saved: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    stack = list(results)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in forward and (node in retained or _is_of_unrepeatable(node)):
            saved.add(node)
        else:
            stack.extend(node.all_input_nodes)
    return saved


def _saved_by(forward: fx.GraphModule, outputs: int) -> dict[str, int]:
    """By name, the bytes of each node that a forward graph passes to its backward, placeholders left out."""
    returned: Any = forward.graph.output_node().args[0]
    saved = [node for node in returned[outputs:] if isinstance(node, fx.Node) and node.op != "placeholder"]
    return {node.name: node.meta["val"].nbytes for node in saved}
