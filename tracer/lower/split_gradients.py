"""The backward of a convolution as two ops: the gradients of weight and bias, then that of the input.

Eager computes all in one call. The gradient of the input needs the shape of the convolution's input and not its values, so in
two ops that input is released before a gradient of its size is allocated. Both parts reach the kernels of the whole. Some
libraries prepare the incoming gradient twice, which takes a little time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import flop_registry

from remat_planner.schedules import Graph
from remat_planner.tracer.costs import same_bits_in_parts
from remat_planner.tracer.joint import Joint, rewritten
from remat_planner.tracer.lower.form_only import layout_of, without_memory
from remat_planner.tracer.operators import OpCall, OperatorFacts, graph_function, with_facts
from remat_planner.tracer.torch_convolution import gradient_needs_no_input

_OF_WEIGHT, _OF_INPUT = ":weight", ":input"
"""What follows the name of the whole op in those of its parts."""
_INPUT, _WEIGHT, _GROUPS, _MASK = 1, 2, 9, 10
"""Positions among the arguments of ``convolution_backward``; the mask is (input, weight, bias)."""
_ONE_DIMENSIONAL = 3
"""Dimensions of the input of a one-dimensional convolution."""


def splittable(joint: Joint) -> tuple[fx.Node, ...]:
    """The ops that can be two: backwards of convolutions that need both gradients."""
    return tuple(node for node in joint.ops if _is_splittable(node))


def has_same_bits_in_parts(node: fx.Node) -> bool:
    """Whether the parts of a ``splittable`` op have its bits, and its kernel needs no input, on this device, which runs them.

    Raises:
        tracer.costs.DeviceNotAtHandError: its device is not here.
    """

    layout, kept = _layout_of_input(node), _kept(node)

    def parts(*args: Any) -> tuple[Any, ...]:
        gradient, source, *rest = args[:_MASK]
        if layout is None or not gradient_needs_no_input(source, *rest):
            return ()
        of_parameters = torch.ops.aten.convolution_backward.default(gradient, source, *rest, [False, *kept[1:]])[1:]
        return (gradient_of_input(gradient, tuple(source.shape), layout, *rest)[0], *of_parameters)

    return same_bits_in_parts(node, "two ops", parts)


def _flops(call: OpCall) -> int:
    gradient, size, _, weight, *rest = call.args
    formula = flop_registry[torch.ops.aten.convolution_backward]
    return int(formula(gradient.shape, size, weight.shape, *rest, [True, False, False], out_val=(size, None, None)))


@with_facts(OperatorFacts(flops=_flops))
@graph_function("tracer.split_gradients.gradient_of_input")
def gradient_of_input(
    gradient: torch.Tensor, size: Sequence[int], layout: torch.memory_format, weight: torch.Tensor, *rest: Any
) -> tuple[torch.Tensor, None, None]:
    """The gradient of a convolution with respect to its input, an input of this ``size`` and ``layout``.

    ``rest`` are the arguments of ``aten.convolution_backward`` from the bias's sizes to the groups.
    """
    source = torch.empty(size, dtype=weight.dtype, device=weight.device, memory_format=layout)
    if gradient_needs_no_input(source, weight, *rest):
        without_memory(source)
    return torch.ops.aten.convolution_backward.default(gradient, source, weight, *rest, [True, False, False])[0], None, None


def with_split_gradients(joint: Joint, names: Collection[str]) -> Joint:
    """``joint`` with these of its ``splittable`` ops in two parts. Their ``meta["wholes"]`` is the node that they replace."""
    if not names:
        return joint
    graph = fx.Graph()
    node_of: dict[fx.Node, fx.Node] = {}
    parts_of: dict[fx.Node, tuple[fx.Node, fx.Node]] = {}
    for node in joint.graph.graph.nodes:
        whole: Any = node.args[0] if node.args else None
        if node.op == "call_function" and node.meta.get("name") in names and _is_splittable(node):
            parts_of[node] = (_weight_part(graph, node, node_of), _input_part(graph, node, node_of))
            node_of[node] = parts_of[node][0]
        elif isinstance(whole, fx.Node) and whole in parts_of:  # a result of it
            copied = node_of[node] = graph.node_copy(node, node_of.__getitem__)
            copied.args = (parts_of[whole][node.args[1] == 0], node.args[1])
        else:
            node_of[node] = graph.node_copy(node, node_of.__getitem__)
    ops = [part for node in joint.ops for part in parts_of.get(node, (node_of[node],))]
    return rewritten(joint, fx.GraphModule(joint.graph, graph), node_of, ops)


def split_as(joint: Joint, graph: Graph) -> Joint:
    """``joint`` with those ops in two parts that are two in ``graph``."""
    names = [node.meta["name"] for node in splittable(joint)]
    return with_split_gradients(joint, [name for name in names if name + _OF_WEIGHT in graph.by_name])


def pairs(graph: Graph) -> dict[str, tuple[int, int]]:
    """Indices of the parts, weight first, by the name of the whole op."""
    first = {name.removesuffix(_OF_WEIGHT): i for name, i in graph.by_name.items() if name.endswith(_OF_WEIGHT)}
    # The second may be the beginning of a chain.
    ends = {name.partition(_OF_INPUT)[0]: i for name, i in graph.by_name.items() if _OF_INPUT in name}
    return {name: (i, ends[name]) for name, i in first.items()}


def _is_splittable(node: fx.Node) -> bool:
    if node.target is not torch.ops.aten.convolution_backward.default or node.meta["pinned"] is not None:
        return False
    groups, channels = node.args[_GROUPS], _source(node).shape[1]
    is_depthwise = groups == channels and groups != 1  # these have kernels of their own, which read the input
    of_input, of_weight, _ = _kept(node)
    return of_input and of_weight and not is_depthwise and _layout_of_input(node) is not None


def _kept(node: fx.Node) -> tuple[bool, bool, bool]:
    """Which results the call computes."""
    mask: Any = node.args[_MASK]
    return mask[0], mask[1], mask[2]


def _source(node: fx.Node) -> torch.Tensor:
    """The fake of the convolution's input."""
    source: Any = node.args[_INPUT]
    fake: torch.Tensor = source.meta["val"]
    return fake


def _layout_of_input(node: fx.Node) -> torch.memory_format | None:
    """The memory format by which the convolution's input lies; None for another layout.

    None for one-dimensional convolutions too: PyTorch makes two-dimensional ones of them, and that reads the input's memory.
    """
    source = _source(node)
    return layout_of(source) if source.dim() > _ONE_DIMENSIONAL else None


def _weight_part(graph: fx.Graph, whole: fx.Node, node_of: dict[fx.Node, fx.Node]) -> fx.Node:
    part = graph.node_copy(whole, node_of.__getitem__)
    part.args = (*part.args[:_MASK], [False, *_kept(whole)[1:]])
    _, *of_parameters = whole.meta["val"]
    part.meta |= {
        "name": whole.meta["name"] + _OF_WEIGHT,
        "val": (None, *of_parameters),
        "wholes": (whole,),
    }
    return part


def _input_part(graph: fx.Graph, whole: fx.Node, node_of: dict[fx.Node, fx.Node]) -> fx.Node:
    part = graph.node_copy(whole, node_of.__getitem__)
    gradient, _, *rest = part.args[:_MASK]
    source: Any = whole.args[_INPUT]
    size = source.meta.get("shape") or tuple(_source(whole).shape)  # where sizes vary, it says how they follow from others
    part.target = gradient_of_input
    part.args = (gradient, size, _layout_of_input(whole), *rest)
    part.meta |= {"name": whole.meta["name"] + _OF_INPUT, "val": (whole.meta["val"][0], None, None), "wholes": (whole,)}
    return part
