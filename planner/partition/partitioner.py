"""Divides a joint graph of forward and backward into two, within a number of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from remat_planner.planner.errors import InfeasibleBudgetError
from remat_planner.planner.formatting import format_bytes_both
from remat_planner.planner.partition.bound import seconds_at_least
from remat_planner.planner.partition.largest_sizes import LargestSizes
from remat_planner.planner.partition.part import CompiledPart, composition
from remat_planner.planner.partition.search import Search
from remat_planner.planner.torch_inductor import divided, merged, outside_tracing, overwritten_inputs
from remat_planner.planner.torch_symbols import is_symbolic_number
from remat_planner.tracer.costs import op_costs
from remat_planner.tracer.fusion import (
    FusedStep,
    Judged,
    KernelCost,
    as_called,
    is_converted,
    measured_rates,
    product_added,
    runs_channels_last,
    values_of,
)

SEARCH_SECONDS = 10.0
"""CPU seconds that the search for one graph takes at most. Compiling a graph of 1000 operators takes more."""


_VIEW = torch.ops.aten.view.default


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes at the peak of a graph, above what is there all the time.

    Attributes:
        here: that this graph may take.
        whole: that it could take if no other graph of the step took any.
    """

    here: int
    whole: int


Graphs = tuple[fx.GraphModule, fx.GraphModule]


def partition(
    joint: fx.GraphModule,
    forward_results: int,
    static: Sequence[int],
    *,
    sizes: LargestSizes,
    frame: tuple[int, int],
    limit: Callable[[int], Room],
    between: int,
    always: bool,
    searches: MutableMapping[str, Search],
) -> tuple[Graphs, CompiledPart]:
    """Forward and backward of ``joint``, whose first ``forward_results`` results are the forward's.

    Args:
        joint: the graph that inductor gets; it is changed.
        forward_results: number of results of the forward.
        static: positions of the parameters and buffers among the inputs.
        sizes: those that the partition is planned for.
        frame: of the part.
        limit: what there is room for, from the peak of the fastest partition.
        between: bytes that other graphs take between this forward and its backward.
        always: whether the least peak that is found will do where none is within the limit.
        searches: those of earlier calls, by graph; the one of this graph goes on, or begins and is added.

    Raises:
        InfeasibleBudgetError: no partition is within the limit; not with ``always``.
    """
    overwritten = overwritten_inputs(joint.graph)
    merged(joint)
    flat = _flat_images(joint.graph)
    _separate_late_additions(joint.graph)
    graph = sizes.graph(joint.graph)
    form = _form(joint.code, graph, overwritten, between)
    if form not in searches:
        searches[form] = Search(_step(graph, forward_results, overwritten, between), seconds=SEARCH_SECONDS)
    search = searches[form]
    step = search.step
    fastest = search.fastest
    room = limit(fastest.peak)
    most = room.here
    found = search.within(most)
    bound = seconds_at_least(step, room.whole)
    judged = found.judged
    part = _part(frame, step, judged, fastest, bound)
    if not found.fits and not always:
        fits = f"fits no partition into {format_bytes_both(most)} of activations and gradients"
        if most < 0:
            over = format_bytes_both(-most)
            fits = f"has no room: parameters, buffers, inputs and what earlier graphs save are {over} over the budget"
        raise InfeasibleBudgetError(
            f"torch.compile's graph {frame[0]}/{frame[1]} {fits}. The least that was found is "
            f"{format_bytes_both(judged.peak)}, {composition(part)}. A partition computes each value at most once more; "
            "remat_planner.plan and apply_schedule can go lower",
            budget=most,
            minimum=judged.peak,
            bottleneck=part.at_peak.kernel,
            proven=math.isinf(bound),
        )
    passed = _passed(joint.graph, step, judged, flat)
    graphs = divided(joint, passed, _numbers(joint.graph), forward_results, static)
    return graphs, part


def _form(code: str, graph: fx.Graph, overwritten: Sequence[int], between: int) -> str:
    """What two graphs have in common of which one search will do."""
    values = [node.meta.get("val") for node in graph.find_nodes(op="placeholder")]
    inputs = [(v.shape, v.stride(), v.dtype, v.device) if isinstance(v, torch.Tensor) else v for v in values]
    return f"{code}{inputs}{overwritten}{between}"


def _step(graph: fx.Graph, forward_results: int, overwritten: Sequence[int], between: int) -> FusedStep:
    placeholders = graph.find_nodes(op="placeholder")
    device = _device(graph)
    with outside_tracing():
        rates = measured_rates(device)
    values = values_of(graph, forward_results, [placeholders[k] for k in overwritten], _kernel_costs)
    return FusedStep(values, rates, cpu=device.type == "cpu", between=between)


def _kernel_costs(nodes: Sequence[fx.Node]) -> Mapping[fx.Node, KernelCost]:
    calls = {node: as_called(node) for node in nodes}
    with outside_tracing():
        costs = op_costs(calls.values())
    return {node: KernelCost(costs[call].seconds, costs[call].workspace) for node, call in calls.items()}


def _device(graph: fx.Graph) -> torch.device:
    devices = [node.meta["val"].device for node in graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)]
    return next((device for device in devices if device.type != "cpu"), torch.device("cpu"))


def _flat_images(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Let everything read the weights and images of convolutions through a flat view, which can pass to the backward.

    Inductor returns such a tensor itself from the forward as a copy in the layout ``channels_last``: all weights would be in
    memory twice until the backward.
    """
    flat: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if _is_primal(node) and is_converted(node) and _is_image(node):
            value = node.meta["val"]
            changes = any(map(is_symbolic_number, value.shape))
            flat_shape = [-1] if changes else [value.shape[0], math.prod(value.shape[1:])]
            with graph.inserting_after(node):
                view = graph.call_function(_VIEW, (node, flat_shape))
            sizes = [_size_node(node, dim, view) if is_symbolic_number(n) else n for dim, n in enumerate(value.shape)]
            with graph.inserting_after(view):
                back = graph.call_function(_VIEW, (view, sizes))
            view.meta["val"], back.meta["val"] = _VIEW(value, flat_shape), _VIEW(value, list(value.shape))
            made = {view, *(size for size in sizes if isinstance(size, fx.Node))}
            node.replace_all_uses_with(back, delete_user_cb=lambda user, made=made: user not in made and user.op != "output")
            flat[node] = view
    return flat


def _size_node(node: fx.Node, dim: int, before: fx.Node) -> fx.Node:
    """A new node before another one: the size of a tensor, which may change."""
    with node.graph.inserting_before(before):
        size = node.graph.call_function(torch.ops.aten.sym_size.int, (node, dim))
    size.meta["val"] = node.meta["val"].shape[dim]
    return size


def _is_primal(node: fx.Node) -> bool:
    return node.op == "placeholder" and "primals" in str(node.target)


def _is_image(node: fx.Node) -> bool:
    """Whether convolutions read ``node``, and nothing overwrites it."""
    return any(map(runs_channels_last, node.users)) and not any(map(_writes, node.users))


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _separate_late_additions(graph: fx.Graph) -> None:
    """Let a product run before what it is added to is there, as where a weight is used twice and its two gradients are added.

    Inductor would make one kernel of product and addition, and what the product reads would wait for the addition. It does not
    see ``other - (-product)``, which has the same bits. The sum of two products stays: the kernel of one adds it to the other.
    """
    products = 0  # before each node
    before: dict[fx.Node, int] = {}
    for node in list(graph.nodes):
        before[node] = products
        products += node.target is torch.ops.aten.mm.default
        product = product_added(node)
        if product is None or products == before[product] + 1:
            continue
        (other,) = (argument for argument in node.all_input_nodes if argument is not product)
        if other.target is torch.ops.aten.mm.default:
            continue
        with graph.inserting_before(node):
            negative = graph.call_function(torch.ops.aten.neg.default, (product,))
            difference = graph.call_function(torch.ops.aten.sub.Tensor, (other, negative))
        negative.meta["val"], difference.meta = product.meta["val"], dict(node.meta)
        node.replace_all_uses_with(difference)
        graph.erase_node(node)


def _passed(graph: fx.Graph, step: FusedStep, judged: Judged, flat: Mapping[fx.Node, fx.Node]) -> list[fx.Node]:
    """The nodes whose tensors pass from forward to backward, parameters and inputs among them."""
    names = {step.values.values[v].name for v in judged.passed}
    return [flat.get(node, node) for node in graph.nodes if node.name in names]


def _numbers(graph: fx.Graph) -> list[fx.Node]:
    """The numbers that the forward computes from sizes. All may pass to the backward, whatever it reads of them."""
    late: set[fx.Node] = set()
    found = []
    for node in graph.nodes:
        if ("tangents" in str(node.target) and node.op == "placeholder") or not late.isdisjoint(node.all_input_nodes):
            late.add(node)
        elif is_symbolic_number(node.meta.get("val")):
            found.append(node)
    return found


def _part(frame: tuple[int, int], step: FusedStep, judged: Judged, fastest: Judged, bound: float) -> CompiledPart:
    values = step.values.values
    return CompiledPart(
        frame=frame,
        peak_bytes=judged.peak,
        saved_bytes=judged.saved_bytes,
        seconds=judged.seconds,
        fastest_seconds=fastest.seconds,
        fastest_bytes=fastest.peak,
        bound_seconds=bound,
        recomputed=tuple(values[v].name for v in sorted(judged.recomputed)),
        at_peak=step.at_peak(judged),
    )
