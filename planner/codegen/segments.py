"""From a schedule to a program: one torch.fx graph for the forward and one for each segment of the backward.

The backward is cut so that autograd gets a parameter's gradient soon after it is final, part by part where it is a sum. Values
travel from one segment to later ones through a *store*, a plain list that belongs to one forward and its backward. A segment
takes out what no later segment reads, so every value is freed at its last use, as in the simulator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import fx

from remat_planner.planner.codegen.cuts import Cuts, cut_backward
from remat_planner.planner.codegen.dataflow import Dataflow
from remat_planner.planner.codegen.handovers import handovers
from remat_planner.planner.codegen.partial_backward import without_tangents
from remat_planner.planner.codegen.program import Backward, Backwards, Program, Segment
from remat_planner.planner.codegen.segment_graph import GraphWriter
from remat_planner.planner.codegen.straight_line import straight_line
from remat_planner.schedules import Graph, simulate
from remat_planner.tracer.joint import Joint, Tangents


def emit(joint: Joint, graph: Graph, steps: Sequence[int]) -> Program:
    """Turn ``steps`` (indices into the actions of ``graph``, which was lowered from ``joint``) into a program.

    Raises:
        schedules.StaleScheduleError: the joint graph has no node for an op of ``graph``.
        schedules.InvalidScheduleError: the steps cannot run, or would not give eager's bits.
    """
    line = straight_line(joint, graph, steps)
    cuts = cut_backward(joint, graph, line, simulate(graph, steps).bytes)
    flow = Dataflow.of(joint, line, cuts)
    writer = GraphWriter(joint, flow, cuts)
    arguments = (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes)
    # Where an output is returned detached too, or as a view of its own form, these are two tensors, each with a gradient.
    outputs = [
        None if i is None else (i, leaf.node, leaf.differentiable) for i, leaf in zip(flow.outputs, joint.outputs, strict=True)
    ]
    tensors = list(dict.fromkeys(output for output in outputs if output is not None))
    returned = [instance for instance, *_ in tensors]
    sources = [line.sources[node] for node in arguments] + ([] if line.pools is None else [line.pools])
    forward, writes = writer.write(0, sources, returned)
    tangents = {line.instances[i].node: place for i, place in flow.places.items() if line.instances[i].kind == "tangent"}
    unchanged = flow.unchanged()

    def without(missing: Tangents) -> Backward:
        reduced, cuts_of_it = without_tangents(joint, line, cuts, missing)
        flow_of_it = Dataflow.of(joint, reduced, cuts_of_it, flow.places)
        writer = GraphWriter(joint, flow_of_it, cuts_of_it, (one.node for one in line.executions[: line.forward_end]))
        return _backward(flow_of_it, writer, cuts_of_it, unchanged, filled=flow.places.values())

    return Program(
        forward=forward,
        run_forward=forward.forward,
        writes=writes,
        tangents=tuple(tangents.get(node) for node in joint.tangent_nodes),
        outputs=tuple(None if output is None else tensors.index(output) for output in outputs),
        backwards=Backwards(_backward(flow, writer, cuts, unchanged), without),
        handovers=handovers(joint, cuts.handed_over[1:]),
        sharing=flow.sharing(returned),
        unchanged=unchanged,
    )


def _backward(
    flow: Dataflow,
    writer: GraphWriter,
    cuts: Cuts,
    unchanged: Sequence[tuple[int, fx.Node | int]],
    filled: Collection[int] = (),
) -> Backward:
    """The segments of a backward; ``filled`` are the places in the store that the forward may have filled."""
    index = {place: k for k, (place, _) in enumerate(unchanged)}
    segments = tuple(_segment(s, flow, writer, cuts, index) for s in range(1, len(cuts.bounds)))
    read = {place for segment in segments for place in segment.reads}
    return Backward(
        segments=segments,
        store_size=max(flow.store_size, *filled, 0),
        unread=tuple(place for place in filled if place not in read),
        unchanged=tuple(k for place, k in index.items() if place in read),
    )


def _segment(number: int, flow: Dataflow, writer: GraphWriter, cuts: Cuts, unchanged: Mapping[int, int]) -> Segment:
    reads = flow.reads(number)
    module, writes = writer.write(number, reads, [part.instance for part in cuts.handed_over[number]])
    places = tuple(flow.places[i] for i in reads)
    return Segment(
        module=module,
        run=module.forward,
        reads=places,
        clears=tuple(flow.places[i] for i in flow.last_reads(number)),
        writes=writes,
        gradients=tuple(part.gradient for part in cuts.handed_over[number]),
        unchanged=tuple(unchanged[place] for place in places if place in unchanged),
    )
