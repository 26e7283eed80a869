"""The backward for gradients that arrive at some outputs only, as eager's autograd would run it.

Eager runs an autograd node only if it gets a gradient, and its sums leave out what does not arrive. So the executions of the
whole backward are taken as they are, in their order, with three changes: an addition of autograd's with one term is that term;
a node that gets some of its gradients takes zeros or None for the others; and what no gradient needs then does not run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import fx

from remat_planner.planner.codegen.cuts import Cuts, HandedOver
from remat_planner.planner.codegen.executions import Execution, Instance, StraightLine
from remat_planner.planner.codegen.gradient_parts import flow_of
from remat_planner.tracer.joint import Joint, Meeting, Tangents


class UndecidedError(Exception):
    """What eager does without a gradient is not known here; the text says why."""


def without_tangents(joint: Joint, line: StraightLine, cuts: Cuts, missing: Tangents) -> tuple[StraightLine, Cuts]:
    """The backward of ``line`` without the tangents ``missing``, in the same segments.

    Raises:
        UndecidedError: it is not known what eager does.
    """
    if joint.flow is None:
        raise UndecidedError("autograd added gradients where the capture did not see it")
    reduced = _Reduced(joint, line, cuts, missing)
    reduced.resolve_reads()
    handed_over = [[reduced.part(part) for part in parts] for parts in cuts.handed_over]
    skipped = reduced.not_needed([part.instance for parts in handed_over for part in parts if part.instance is not None])
    return replace(line, instances=reduced.instances, executions=reduced.executions), Cuts(cuts.bounds, handed_over, skipped)


@dataclass
class _Reduced:
    """The executions while they are changed.

    Attributes:
        same_as: for the result of an addition that has one term left, that term.
        undefined: instances of gradients that do not arrive.
        undecided: by execution, why it cannot run.
    """

    joint: Joint
    line: StraightLine
    cuts: Cuts
    missing: Tangents
    same_as: dict[int, int] = field(default_factory=dict)
    undefined: set[int] = field(default_factory=set)
    undecided: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.flow = flow_of(self.joint)
        self.instances = list(self.line.instances)
        self.executions = list(self.line.executions)
        absent = {node for k, node in enumerate(self.joint.tangent_nodes) if k in self.missing}
        self.undefined |= {i for i, one in enumerate(self.instances) if one.kind == "tangent" and one.node in absent}

    def resolve_reads(self) -> None:
        """Decide what each execution of the backward reads, and which results are not defined."""
        for position in range(self.line.forward_end, len(self.executions)):
            execution = self.executions[position]
            reads = {argument: self._resolved(i) for argument, i in execution.reads.items()}
            # A sum may be made in its first term because nothing else reads that; another term may have other readers.
            in_place = execution.in_place and self._is_same_first_term(execution, reads)
            execution = self.executions[position] = replace(execution, reads=reads, in_place=in_place)
            terms = self.flow.sums.get(execution.node.meta.get("operator", -1))
            if terms is not None:
                self._add(position, terms)
            elif any(i in self.undefined for i in reads.values()):
                self._run_without(position)

    def part(self, part: HandedOver) -> HandedOver:
        """What of ``part`` autograd gets."""
        arrives = part.instance is not None and bool(part.tangents - self.missing)
        instance = self._resolved(part.instance) if arrives and part.instance is not None else None
        if instance in self.undefined:
            raise UndecidedError("a gradient that arrives is computed from one that does not")
        return part._replace(instance=instance)

    def not_needed(self, needed_at_last: list[int]) -> set[int]:
        """The executions of the backward that need not run for these instances."""
        needed = set(needed_at_last)
        skipped = set(self.cuts.skipped)
        for position in reversed(range(self.line.forward_end, len(self.executions))):
            execution = self.executions[position]
            produced = {execution.result, *execution.elements, execution.saved_state}
            if position in skipped or (needed.isdisjoint(produced) and not self._has_effects(execution)):
                skipped.add(position)
                continue
            if position in self.undecided:
                raise UndecidedError(self.undecided[position])
            needed |= {execution.reads[argument] for argument in execution.passed_arguments}
            if execution.replayed_state is not None:
                needed.add(execution.replayed_state)
        return skipped

    def _resolved(self, instance: int) -> int:
        return self.same_as.get(instance, instance)

    def _add(self, position: int, terms: tuple[Tangents, Tangents]) -> None:
        execution = self.executions[position]
        arguments = execution.node.args[:2]
        arriving = [self._read(execution, argument) for argument, of in zip(arguments, terms, strict=True) if of - self.missing]
        if len(arriving) == 1:
            self.same_as[execution.result] = arriving[0]
        elif not arriving:
            self.undefined.add(execution.result)
        if not self.undefined.isdisjoint(arriving):
            self.undecided[position] = "a gradient that arrives is computed from one that does not"

    def _is_same_first_term(self, execution: Execution, reads: Mapping[fx.Node, int]) -> bool:
        first = execution.node.args[0]
        return isinstance(first, fx.Node) and reads[first] == execution.reads[first]

    def _read(self, execution: Execution, argument: object) -> int:
        assert isinstance(argument, fx.Node)
        return execution.reads[argument]

    def _run_without(self, position: int) -> None:
        """Give an execution that reads gradients which do not arrive what eager's formula takes for them."""
        execution = self.executions[position]
        meeting = self._meeting_with_others(execution)
        if meeting is not None:
            self.executions[position] = self._with_substitutes(position, execution, meeting)
            return
        if any(self._is_gradient(i) and i not in self.undefined for i in execution.reads.values()):
            self.undecided[position] = f"{execution.node.meta['name']} reads gradients that do not come from one autograd node"
        self.undefined |= {execution.result, *execution.elements}

    def _meeting_with_others(self, execution: Execution) -> Meeting | None:
        """The autograd node that runs ``execution``, if it gets some of its gradients and not others."""
        meeting = self.flow.meetings.get(self._autograd_node(execution))
        arrive = {bool(tangents - self.missing) for tangents in meeting.gradients} if meeting is not None else set()
        return meeting if arrive == {True, False} else None

    def _with_substitutes(self, position: int, execution: Execution, meeting: Meeting) -> Execution:
        absent = [argument for argument, i in execution.reads.items() if i in self.undefined]
        if meeting.missing == "none":
            omitted = tuple(k for k, argument in enumerate(execution.node.args) if argument in absent)
            if sum(argument in absent for argument in execution.node.all_input_nodes) == len(omitted):
                return replace(execution, omitted=(*execution.omitted, *omitted))
        if meeting.missing == "zeros":
            zeros = {argument: self._zeros_for(argument) for argument in absent}
            return replace(execution, reads=execution.reads | zeros)
        self.undecided[position] = f"{meeting.name} gets some of its gradients and not others"
        return execution

    def _zeros_for(self, node: fx.Node) -> int:
        families = 1 + max(instance.family for instance in self.instances)
        self.instances.append(Instance("zeros", node, families))
        return len(self.instances) - 1

    def _has_effects(self, execution: Execution) -> bool:
        """Whether eager runs ``execution`` for another reason than its result."""
        node = execution.node
        if execution.replayed_state is not None or not (node.meta.get("random") or node.meta.get("pinned")):
            return False
        tangents = self.flow.nodes.get(self._autograd_node(execution))
        return tangents is None or bool(tangents - self.missing)

    def _autograd_node(self, execution: Execution) -> int:
        """Number of the autograd node that runs ``execution``; -1 where it is not known."""
        number = execution.node.meta.get("operator")
        autograd_node = None if number is None else self.joint.operators[number].autograd_node
        return -1 if autograd_node is None else autograd_node

    def _is_gradient(self, instance: int) -> bool:
        one = self.instances[instance]
        return one.kind == "tangent" or (one.kind != "source" and one.node.meta.get("phase") == "backward")
