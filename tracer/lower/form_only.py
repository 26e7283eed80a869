"""Operators of the backward that take a tensor of the forward for its form alone.

The gradient of a pooling's or a padding's input has that input's shape and layout, and nothing in it depends on the input's
values. Autograd retains the input nevertheless. Here such an operator gets a tensor without memory in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import fx

from remat_planner.schedules import Graph
from remat_planner.tracer.costs import same_bits_in_parts
from remat_planner.tracer.joint import Joint, operator_name, with_nodes_changed
from remat_planner.tracer.lower.write_over import TOGETHER
from remat_planner.tracer.operators import OpCall, OperatorFacts, TensorSpec, Values, facts_of, graph_function, with_facts

_aten = torch.ops.aten
_OPERATORS = frozenset(
    {
        _aten.max_pool2d_with_indices_backward.default,
        _aten.max_pool3d_with_indices_backward.default,
        _aten.adaptive_max_pool2d_backward.default,
        _aten.adaptive_max_pool3d_backward.default,
        _aten.fractional_max_pool2d_backward.default,
        _aten.fractional_max_pool3d_backward.default,
        _aten.avg_pool2d_backward.default,
        _aten.avg_pool3d_backward.default,
        _aten._adaptive_avg_pool2d_backward.default,
        _aten._adaptive_avg_pool3d_backward.default,
        _aten.reflection_pad1d_backward.default,
        _aten.reflection_pad2d_backward.default,
        _aten.reflection_pad3d_backward.default,
        _aten.replication_pad1d_backward.default,
        _aten.replication_pad2d_backward.default,
        _aten.replication_pad3d_backward.default,
    }
)
"""Each takes the incoming gradient, then the tensor of which it needs the form; on CPUs and with CUDA."""
_DEVICES = ("cpu", "cuda")
_TENSOR = 1
"""Position of that tensor among the arguments."""
_SUFFIX = ":form"
_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def form_readers(joint: Joint) -> tuple[fx.Node, ...]:
    """The ops that read a tensor for its form alone."""
    return tuple(node for node in joint.ops if _reads_form(node))


def has_same_bits_by_form(node: fx.Node) -> bool:
    """Whether one of the ``form_readers`` has its bits without the tensor's memory, on this device, which runs it.

    Raises:
        tracer.costs.DeviceNotAtHandError: its device is not here.
    """
    layout = layout_of(_source(node))

    def by_form(gradient: torch.Tensor, source: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
        try:
            return (_by_form(node.target)(gradient, source.shape, layout, *rest),)
        except RuntimeError:  # PyTorch's, to a kernel that asks for memory that is not there
            return ()

    return same_bits_in_parts(node, "by form", by_form)


def with_forms(joint: Joint, names: Collection[str]) -> Joint:
    """``joint`` with these of its ``form_readers`` without the tensor. Their ``meta["wholes"]`` are the nodes in eager."""
    if not names:
        return joint

    def change(copied: fx.Node, node: fx.Node) -> None:
        if node.op == "call_function" and node.meta.get("name") in names and _reads_form(node):
            source: Any = node.args[_TENSOR]
            size = source.meta.get("shape") or tuple(_source(node).shape)  # where sizes vary, it says how they follow
            gradient, _, *rest = copied.args
            copied.target = _by_form(node.target)
            copied.args = (gradient, size, layout_of(_source(node)), *rest)
            copied.meta |= {"name": node.meta["name"] + _SUFFIX, "wholes": node.meta.get("wholes", (node,))}

    return with_nodes_changed(joint, change)


def forms_as(joint: Joint, graph: Graph) -> Joint:
    """``joint`` with those ops without the tensor that are so in ``graph``."""
    without = {name.partition(TOGETHER)[0] for name in graph.by_name}  # one may be the beginning of a chain
    return with_forms(joint, [n.meta["name"] for n in form_readers(joint) if n.meta["name"] + _SUFFIX in without])


def layout_of(tensor: torch.Tensor) -> torch.memory_format | None:
    """The memory format by which ``tensor`` lies; None for another layout."""
    formats = (torch.contiguous_format, *([_LAYOUTS[tensor.dim()]] if tensor.dim() in _LAYOUTS else []))
    return next((layout for layout in formats if tensor.is_contiguous(memory_format=layout)), None)


def without_memory(tensor: torch.Tensor) -> torch.Tensor:
    """``tensor``, whose memory is released; its form stays."""
    tensor.untyped_storage().resize_(0)
    return tensor


def _reads_form(node: fx.Node) -> bool:
    if node.target not in _OPERATORS or node.meta["pinned"] is not None or node.kwargs:
        return False
    source = _source(node)
    return source.device.type in _DEVICES and layout_of(source) is not None


def _source(node: fx.Node) -> torch.Tensor:
    argument: Any = node.args[_TENSOR]
    fake: torch.Tensor = argument.meta["val"]
    return fake


@cache
def _by_form(target: Any) -> Callable[..., torch.Tensor]:
    """``target`` with size and layout in the place of the tensor."""
    rule = facts_of(target).sample_inputs

    def sample_inputs(call: OpCall) -> dict[str | TensorSpec, Values]:
        gradient, size, _, *rest = call.args
        source = replace(gradient, shape=tuple(size))
        of_target = replace(call, target=target, args=(gradient, source, *rest))
        asked = {} if rule is None else rule(of_target)
        return {of_target.argument(key) if isinstance(key, str) else key: values for key, values in asked.items()}

    @with_facts(OperatorFacts(sample_inputs=None if rule is None else sample_inputs))
    @graph_function(f"tracer.form_only.{operator_name(target)}")
    def run(gradient: torch.Tensor, size: Sequence[int], layout: torch.memory_format, *rest: Any) -> torch.Tensor:
        source = torch.empty(size, dtype=gradient.dtype, device=gradient.device, memory_format=layout)
        result: torch.Tensor = target(gradient, without_memory(source), *rest)
        return result

    run.__name__ = run.__qualname__ = operator_name(target)
    return run
