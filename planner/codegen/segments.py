"""From a schedule to a program: one torch.fx graph for the forward and one for each segment of the backward.

The backward is cut so that autograd gets a parameter's gradient soon after it is final, part by part where it is a sum. Values
travel from one segment to later ones through a *store*, a plain list that belongs to one forward and its backward. A segment
takes out what no later segment reads, so every value is freed at its last use, as in the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence

from remat_planner.planner.codegen.cuts import cut_backward
from remat_planner.planner.codegen.dataflow import Dataflow
from remat_planner.planner.codegen.program import Program, Segment
from remat_planner.planner.codegen.segment_graph import GraphWriter
from remat_planner.planner.codegen.straight_line import straight_line
from remat_planner.schedules import Graph, simulate
from remat_planner.tracer.joint import Joint


def emit(joint: Joint, graph: Graph, steps: Sequence[int]) -> Program:
    """Turn ``steps`` (op indices of ``graph``, which was lowered from ``joint``) into a program.

    Raises:
        schedules.StaleScheduleError: the joint graph has no node for an op of ``graph``.
        schedules.InvalidScheduleError: the steps cannot run, or would not give eager's bits.
    """
    line = straight_line(joint, graph, steps)
    cuts = cut_backward(joint, graph, line, simulate(graph, steps).bytes)
    flow = Dataflow.of(joint, line, cuts)
    writer = GraphWriter(joint, flow, cuts)
    arguments = (*joint.parameter_nodes, *joint.buffer_nodes, *joint.input_nodes)
    returned = list(dict.fromkeys(i for i in flow.outputs if i is not None))
    forward, writes = writer.write(0, [line.sources[node] for node in arguments], returned)
    tangents = {line.instances[i].node: place for i, place in flow.places.items() if line.instances[i].kind == "tangent"}
    return Program(
        forward=forward,
        run_forward=forward.forward,
        writes=writes,
        store_size=len(flow.places),
        tangents=tuple(tangents.get(node) for node in joint.tangent_nodes),
        outputs=tuple(None if i is None else returned.index(i) for i in flow.outputs),
        segments=tuple(_segment(s, flow, writer, cuts.handed_over[s]) for s in range(1, len(cuts.bounds))),
        unchanged=flow.unchanged(),
    )


def _segment(number: int, flow: Dataflow, writer: GraphWriter, handed_over: Sequence[tuple[int, int]]) -> Segment:
    reads = flow.reads(number)
    module, writes = writer.write(number, reads, [instance for _, instance in handed_over])
    return Segment(
        module=module,
        run=module.forward,
        reads=tuple(flow.places[i] for i in reads),
        clears=tuple(flow.places[i] for i in flow.last_reads(number)),
        writes=writes,
        gradients=tuple(k for k, _ in handed_over),
    )
