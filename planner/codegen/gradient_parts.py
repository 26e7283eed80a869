"""A gradient that is a sum, split into the parts that autograd adds up.

Several readers may send a gradient to one parameter: two calls of the model before one backward, a penalty on the parameters, a
module outside of a region. Eager then adds each part to the sum of all earlier ones. Adding the parts of one call first would
change bits, so each part goes to autograd by itself. Autograd adds in place, or takes the memory that the plan's additions
would take.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from remat_planner.planner.codegen.executions import StraightLine
from remat_planner.schedules import Graph, InvalidScheduleError
from remat_planner.tracer.joint import Gradient, GradientFlow, Joint, Tangents


@dataclass(frozen=True)
class GradientParts:
    """How one gradient goes to autograd.

    Attributes:
        instances: the parts in the order in which autograd adds them; one where the gradient is no sum, none where there is no
            gradient.
        owned_after: for each part, index of the execution after which autograd owns it: the plan's addition of the part, or its
            producer where the plan adds nothing; -1 for a part that no execution produces.
        tangents: for each part, those on which it depends.
        skipped: the executions in which the plan adds the parts and lays out the sum. Autograd does both instead.
    """

    instances: tuple[int, ...] = ()
    owned_after: tuple[int, ...] = ()
    tangents: tuple[Tangents, ...] = ()
    skipped: tuple[int, ...] = ()

    @classmethod
    def whole(cls, instance: int | None, line: StraightLine, tangents: Tangents) -> GradientParts:
        """The gradient ``instance`` in one piece."""
        return cls() if instance is None else cls((instance,), (line.instances[instance].producer,), (tangents,))

    def complete_after(self, position: int) -> GradientParts:
        """The same, with the last part not owned by autograd before the execution at ``position``."""
        if not self.owned_after:
            return self
        return replace(self, owned_after=(*self.owned_after[:-1], max(self.owned_after[-1], position)))


def flow_of(joint: Joint) -> GradientFlow:
    """The flow of the gradients of ``joint``; where it is not known, each counts as dependent on all tangents."""
    if joint.flow is not None:
        return joint.flow
    return GradientFlow((frozenset(range(len(joint.tangent_nodes))),) * len(joint.gradients))


def copyable_storages(graph: Graph, joint: Joint) -> tuple[int, ...]:
    """The storages of ``graph`` that a program can copy to a pool: the ``copyable`` ones, except for partial sums of gradients,
    which autograd owns.
    """
    sums = {node.meta["name"] for gradient in joint.gradients for node in gradient.sums}
    owned = {s for op, allocated in zip(graph.ops, graph.allocated, strict=True) if op.name in sums for s in allocated}
    return tuple(s for s in graph.copyable if s not in owned)


def parts_of_gradients(joint: Joint, line: StraightLine) -> list[GradientParts]:
    """Each gradient of ``joint`` in parts; in one piece where another op reads a partial sum."""
    flow = flow_of(joint)
    readers: dict[int, set[int]] = defaultdict(set)
    for position, execution in enumerate(line.executions):
        for instance in execution.reads.values():
            readers[instance].add(position)
    for returned in (*line.outputs, *line.gradients):
        if returned is not None:
            readers[returned].add(-1)
    return [
        _parts(gradient, i, line, readers, flow.sums, tangents)
        for gradient, i, tangents in zip(joint.gradients, line.gradients, flow.gradients, strict=True)
    ]


def _parts(
    gradient: Gradient,
    instance: int | None,
    line: StraightLine,
    readers: Mapping[int, set[int]],
    terms: Mapping[int, tuple[Tangents, Tangents]],
    tangents: Tangents,
) -> GradientParts:
    whole = GradientParts.whole(instance, line, tangents)
    if instance is None or not gradient.sums:
        return whole
    total = instance
    addends, of_addends, skipped = [], [], []
    if gradient.node is not gradient.sums[0]:  # a copy of the sum in the parameter's layout
        skipped.append(line.instances[total].producer)
        total = line.executions[skipped[-1]].reads[gradient.sums[0]]
    # From the last sum to the first: each adds one part to the rest.
    for node, rest in pairwise((*gradient.sums, gradient.contributions[0])):
        skipped.append(line.instances[total].producer)
        addition = line.executions[skipped[-1]]
        if addition.node is not node:
            raise InvalidScheduleError(
                f"step {addition.step} brings back {node.meta['name']!r}, a partial sum of a gradient. Autograd owns it, so it "
                "cannot be copied to a pool",
                step=addition.step,
                op=node.meta["name"],
            )
        reads = addition.reads
        addend = next((argument for argument in node.all_input_nodes if argument is not rest), rest)
        of_first, of_second = terms.get(node.meta.get("operator", -1), (tangents, tangents))
        of_addends.append(of_first if node.args[0] is addend else of_second)
        of_rest = of_second if node.args[0] is addend else of_first
        addends.append(reads[addend])
        total = reads[rest]
    results = [line.executions[position].result for position in skipped]
    read_by_others = any(readers[result] - {*skipped, -1} for result in results)
    partial_sum_returned = any(-1 in readers[result] for result in results[1:])
    if read_by_others or partial_sum_returned:
        return whole
    additions = skipped[-len(addends) :]
    owned_after = (additions[-1], *reversed(additions[1:]), skipped[0])
    return GradientParts((total, *reversed(addends)), owned_after, (of_rest, *reversed(of_addends)), tuple(skipped))
