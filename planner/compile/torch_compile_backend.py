"""A backend for ``torch.compile`` that saves for the backward what a schedule keeps."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from remat_planner.planner.compile.compilers import check_compiler
from remat_planner.planner.compile.saved_set import matched
from remat_planner.planner.errors import SavedSetError
from remat_planner.planner.torch_private import ahead_of_time, compiled_by_inductor, min_cut_partition
from remat_planner.schedules import Schedule


@dataclass(frozen=True)
class SavedSet:
    """What ``torch.compile`` saves between forward and backward, in bytes, beside what the schedule keeps.

    Parameters and inputs, which are there anyway, are not counted.

    Attributes:
        kept_bytes: what the schedule keeps.
        honoured_bytes: as much of that as is saved, by the schedule's sizes.
        saved_bytes: all that is saved, by the sizes of what is saved (a mask of a dropout is saved as booleans).
        beyond_plan: names of the nodes that are saved and not kept: results of what may draw random numbers or updates running
            statistics, which is not repeated here.
        not_needed: names of the nodes that are kept and not saved: the backward does without them, given what is saved.
    """

    kept_bytes: int
    honoured_bytes: int
    saved_bytes: int
    beyond_plan: tuple[str, ...]
    not_needed: tuple[str, ...]


class ScheduleBackend:
    """``torch.compile(model, backend=ScheduleBackend(schedule))``: the schedule's choice, by the compiler's partitioner.

    The partitioner is told what to save and what to recompute. It cannot be told when and how often to recompute, so the
    schedule's peak and its budget are not promised; gradients are those of ``torch.compile``.

    Args:
        schedule: of the whole model.
        compiler: "inductor" to have both graphs compiled; None to run them by PyTorch's own kernels, as "aot_eager" does.

    Attributes:
        saved: what was saved; None until the model is compiled, which its first call does.

    Raises:
        SavedSetError: ``schedule`` is one by regions.
        CompilerError: there is no such compiler.
    """

    def __init__(self, schedule: Schedule, *, compiler: str | None = None) -> None:
        if not isinstance(schedule, Schedule):
            raise SavedSetError(
                f"a {type(schedule).__name__} has one schedule for each block: give that of a whole model, without regions",
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
            SavedSetError: the graph is not the schedule's step. ``torch.compile`` wraps it in an error of its own.
            CompilerError: the compiler cannot be used here; wrapped too.
        """
        if self.compiler is None:
            return ahead_of_time(self._partition, None)(module, inputs)
        check_compiler(self.compiler, [value for value in inputs if isinstance(value, torch.Tensor)])
        return ahead_of_time(self._partition, compiled_by_inductor)(module, inputs)

    def _partition(self, joint: fx.GraphModule, inputs: Any, **settings: Any) -> tuple[fx.GraphModule, fx.GraphModule]:
        _refuse_symbolic(joint.graph)
        forward = _independent_of_tangents(joint.graph)
        kept = matched(self.schedule, forward)
        returned = joint.graph.output_node().all_input_nodes
        saved = _needed([node for node in returned if node not in set(forward)], set(forward), kept)
        for node in forward:
            if node in saved:
                node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
            elif not _of_what_runs_once(node):
                node.meta["recompute"] = CheckpointPolicy.MUST_RECOMPUTE
            else:
                node.meta.pop("recompute", None)  # of a torch.utils.checkpoint in the model
        names = {node.name for node in kept}
        sizes = {node.name: size for node, size in kept.items()}
        graphs = min_cut_partition(joint, inputs, settings)
        found = _saved_by(graphs[0], settings["num_fwd_outputs"])
        self.saved = SavedSet(
            kept_bytes=sum(sizes.values()),
            honoured_bytes=sum(size for name, size in sizes.items() if name in found),
            saved_bytes=sum(found.values()),
            beyond_plan=tuple(name for name in found if name not in names),
            not_needed=tuple(name for name in sizes if name not in found),
        )
        return graphs


def _refuse_symbolic(graph: fx.Graph) -> None:
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt) or (
            isinstance(value, torch.Tensor) and not all(isinstance(size, int) for size in value.shape)
        ):
            raise SavedSetError(
                "torch.compile captured the model for shapes that may change, and a schedule is for those that it was planned "
                "with: torch.compile(model, backend=..., dynamic=False)",
                ops=(),
            )


def _of_what_runs_once(node: fx.Node) -> bool:
    return _runs_once(node) or (node.target is operator.getitem and any(map(_runs_once, node.all_input_nodes)))


def _runs_once(node: fx.Node) -> bool:
    """Whether the partitioner could not repeat it: another draw, or statistics that have been updated by then."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return False
    updates = target is torch.ops.aten._native_batch_norm_legit_functional.default
    return updates or torch.Tag.nondeterministic_seeded in target.tags


def _independent_of_tangents(graph: fx.Graph) -> list[fx.Node]:
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


def _needed(wanted: list[fx.Node], forward: set[fx.Node], kept: dict[fx.Node, int]) -> set[fx.Node]:
    """What is saved so that ``wanted`` can be computed from it, from parameters and from inputs: kept nodes, and draws."""
    saved: set[fx.Node] = set()
    seen: set[fx.Node] = set()
    stack = list(wanted)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node in forward and (node in kept or _of_what_runs_once(node)):
            saved.add(node)
        else:
            stack.extend(node.all_input_nodes)
    return saved


def _saved_by(forward: fx.GraphModule, outputs: int) -> dict[str, int]:
    """The bytes of each node that a forward graph hands on to its backward, by name; placeholders left out."""
    returned: Any = forward.graph.output_node().args[0]
    saved = [node for node in returned[outputs:] if isinstance(node, fx.Node) and node.op != "placeholder"]
    return {node.name: node.meta["val"].nbytes for node in saved}
